"""What a `config.json` says about weights that are quantized on disk: read from others, and written for our own.

bitsandbytes' 4-bit form is read and written. `quant_method: "quatrain"` has the same fields and marks what bitsandbytes
has no module for: INT4 codes and 4-bit embeddings; only Quatrain loads those. Anything else is refused by name, since
dequantizing somebody's 8-bit or GPTQ weights and quantizing them again would stack two errors silently.
"""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from quatrain.errors import ModelError
from quatrain.quantization import QuantizedEmbedding, QuantizedModule
from quatrain.quantization.bitsandbytes_format import quantization_config
from quatrain.quantization.linears import is_linear

UNKNOWN_TO_BITSANDBYTES = frozenset({"falcon"})
"""Model types whose linears are a subclass of `nn.Linear`; transformers never replaces those by bitsandbytes'."""


def take_stored(config: PreTrainedConfig) -> None:
    """Checks how the checkpoint is quantized and takes the note off the config, which then describes plain weights.

    Which matrices are in four bits is seen from the tensors themselves; the note only says in which format.

    Raises:
        ModelError: A format that isn't bitsandbytes' 4-bit one or our own.
    """
    stored: Any = getattr(config, "quantization_config", None)
    if stored is None:
        return
    stored = stored.to_dict() if hasattr(stored, "to_dict") else stored
    method = stored.get("quant_method") if isinstance(stored, dict) else stored
    if method not in ("bitsandbytes", "quatrain"):
        raise ModelError(
            f"A quantized checkpoint must be in bitsandbytes' 4-bit format; this one is {method!r}. "
            "Load the 16-bit checkpoint of this model instead."
        )
    if stored.get("load_in_8bit") or stored.get("_load_in_8bit") or not stored.get("load_in_4bit"):
        raise ModelError(
            "A bitsandbytes checkpoint must be a 4-bit one; this one is 8-bit (LLM.int8). "
            "Load the 16-bit checkpoint of this model instead."
        )
    delattr(config, "quantization_config")


def declare(model: PreTrainedModel) -> None:
    """Notes on the model's config how its weights are quantized, so that any save makes a loadable checkpoint."""
    modules = [module for module in model.modules() if isinstance(module, QuantizedModule)]
    if not modules:
        return
    first = modules[0].quantized
    kept = [name for name, module in model.named_modules() if is_linear(module)]
    note = quantization_config(
        quant_type=first.quant_type,
        double_quant=first.is_double_quantized,
        compute_dtype=first.dtype,
        skip_modules=kept,
    )
    embedding = any(isinstance(module, QuantizedEmbedding) for module in modules)
    if first.quant_type == "int4" or embedding or model.config.model_type in UNKNOWN_TO_BITSANDBYTES:
        note["quant_method"] = "quatrain"
    model.config.quantization_config = note
