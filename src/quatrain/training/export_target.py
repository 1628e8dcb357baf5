"""What a run is to be exported to, if that is declared before it trains: what the target can't carry is refused then.

Hours later would be too late. The checks that need the base come once it is loaded; those on settings alone at once.
"""

from typing import TYPE_CHECKING, Any, Literal

from quatrain.errors import ConfigError
from quatrain.models.gguf_writable import check_family, cutting_rule
from quatrain.models.stored_quantization import UNKNOWN_TO_BITSANDBYTES

if TYPE_CHECKING:
    from quatrain.training.config import RunConfig

ExportTarget = Literal["safetensors", "bnb-4bit", "gguf", "ollama", "lora-gguf"]
GGUF_TARGETS = ("gguf", "ollama", "lora-gguf")


def check_settings(config: "RunConfig") -> None:
    """Refuse settings that `config.export_to` can't carry.

    Raises:
        ConfigError: there are such.
    """
    lora = config.lora
    if config.export_to == "bnb-4bit":
        if config.quantization == "int4":
            raise ConfigError("`export_to: bnb-4bit` needs `quantization` nf4 or fp4: bitsandbytes has no int4")
        if config.quantize_embeddings:
            raise ConfigError("`export_to: bnb-4bit` needs `quantize_embeddings` off: bitsandbytes has no such module")
    if config.export_to == "lora-gguf":
        beyond = [name for name in ("use_dora", "modules_to_save", "trainable_token_indices") if getattr(lora, name)]
        beyond += ["new_tokens"] if config.new_tokens else []
        if beyond:
            raise ConfigError(
                f"`export_to: lora-gguf` needs plain LoRA, without {', '.join(beyond)}: llama.cpp's adapters are "
                "low-rank matrices. Take gguf, which merges them"
            )


def check_base(target: ExportTarget | None, model: Any, tokenizer: Any) -> None:
    """Refuse a base that `target` can't carry.

    Raises:
        ConfigError: bitsandbytes never quantizes this family.
        ModelError: GGUF export doesn't know the family or its tokenizer.
    """
    if target in GGUF_TARGETS:
        check_family(model.config)
        cutting_rule(tokenizer)
    if target == "bnb-4bit" and model.config.model_type in UNKNOWN_TO_BITSANDBYTES:
        raise ConfigError(
            f"transformers can't load {model.config.model_type} in bitsandbytes' four bits; export safetensors"
        )
