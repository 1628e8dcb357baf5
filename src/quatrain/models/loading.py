"""Loading a base: from a hub name, a folder or a GGUF file to a Hugging Face model whose linears are in four bits.

    source ─► files ─► headers + skeleton ─► plan ─► tensor by tensor: read, quantize on the device, put in place

transformers can quantize while loading too, but only through bitsandbytes, and it knows one way of choosing what to
quantize. Here the order is fixed by the plan, so at any time there is one 16-bit matrix beside what has been placed (on
a GPU also those that are on their way, half a gigabyte), and every tensor that stays in 16 bits has a reason that can
be printed.
"""

from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from quatrain import device as devices
from quatrain.adapters.provenance import identify
from quatrain.errors import ConfigError
from quatrain.models.choosing import choose
from quatrain.models.filling import Progress, fill
from quatrain.models.gguf_file import GgufFile
from quatrain.models.identity import identity_of
from quatrain.models.load_plan import LoadPlan, plan_load
from quatrain.models.placing import Placement
from quatrain.models.safetensors_folder import SafetensorsFolder
from quatrain.models.skeleton import build_skeleton, read_config, set_generation
from quatrain.models.sources import Source, locate
from quatrain.models.stored_quantization import take_stored
from quatrain.models.summary import attach_summary, summarize
from quatrain.models.tokenizers import check_vocabulary, read_tokenizer
from quatrain.ops.codebooks import QUANT_TYPES


def load_model(
    source: str | Path,
    *,
    quantization: Literal["nf4", "fp4", "int4"] | None = "nf4",
    double_quant: bool = True,
    block_size: int = 64,
    compute_dtype: str = "auto",
    device: str = "auto",
    keep_in_16bit: tuple[str, ...] = (),
    quantize_head: bool = False,
    quantize_embeddings: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Loads a frozen base model in four bits, and its tokenizer.

    Args:
        source: A hub name (`org/name`), a folder with safetensors, or a `.gguf` file.
        quantization: The type of the codes, or None for 16 bits throughout. A checkpoint that is in four bits
            already keeps its own type, block size and scales, byte for byte.
        double_quant: Store the scales in 8 bits (4.127 instead of 4.5 bits per parameter).
        block_size: Elements per scale, 32 to 4096.
        compute_dtype: `auto` (what the device computes fastest), `bfloat16`, `float16` or `float32`.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        keep_in_16bit: Patterns of module names that stay in 16 bits, such as `o_proj` or `model.layers.0.*`.
        quantize_head: Also quantize the output projection.
        quantize_embeddings: Also quantize the input embedding.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run Python code that comes with the model. Off unless you have read that code.
        progress: Called after each tensor with (bytes done, bytes in all, name).

    Returns:
        An ordinary Hugging Face model in evaluation mode, all parameters frozen, and its tokenizer (a
        `PreTrainedTokenizerBase`, or None if the folder has none). `model_summary(model)` lists what was
        quantized and what wasn't.

    Raises:
        ModelError: The files are missing, damaged, unsafe, or don't fit together.
        ConfigError: An argument is unknown or contradicts another.
        QuantizationError: Weights hold NaN or infinity; the message names them.
    """
    if quantization not in (None, *QUANT_TYPES):
        raise ConfigError(f"`quantization` must be one of {', '.join(QUANT_TYPES)} or None; got {quantization!r}.")
    where = locate(source, revision=revision, trust_remote_code=trust_remote_code)
    target = devices.pick(device)
    placement = Placement(
        device=target,
        compute_dtype=devices.compute_dtype(target, compute_dtype),
        quant_type=quantization,
        block_size=block_size,
        double_quant=double_quant,
    )
    weights = _open(where)
    model, plan = _prepare(where, weights, placement, trust_remote_code)
    decisions = choose(
        model,
        already_quantized=bool(plan.companions),
        dtype=placement.compute_dtype,
        block_size=block_size,
        keep_in_16bit=keep_in_16bit,
        quantize_head=quantize_head,
        quantize_embeddings=quantize_embeddings,
    )
    identify(model, identity_of(where, weights, model.config))
    fill(model, plan, weights, decisions, placement, progress)
    special = weights.special_tokens() if isinstance(weights, GgufFile) else {}
    tokenizer = read_tokenizer(where, special=special, trust_remote_code=trust_remote_code)
    if tokenizer is not None:
        check_vocabulary(tokenizer, model.config.get_text_config().vocab_size)
    set_generation(model, where, tokenizer)
    attach_summary(model, summarize(model, {name: decision.reason for name, decision in decisions.items()}))
    return model, tokenizer


def _open(where: Source) -> GgufFile | SafetensorsFolder:
    if where.gguf_file is not None:
        return GgufFile(where.folder / where.gguf_file)
    return SafetensorsFolder(where.folder)


def _prepare(
    where: Source, weights: GgufFile | SafetensorsFolder, placement: Placement, trust_remote_code: bool
) -> tuple[PreTrainedModel, LoadPlan]:
    """The empty model and the plan that fills it: everything that can go wrong without reading a weight."""
    if isinstance(weights, GgufFile):
        config = weights.config()
    else:
        config = read_config(where, trust_remote_code=trust_remote_code)
    config.name_or_path = where.name
    take_stored(config)
    model = build_skeleton(config, dtype=placement.compute_dtype, trust_remote_code=trust_remote_code)
    return model, plan_load(model, weights)
