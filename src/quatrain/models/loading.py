"""Loading a base: from a hub name, a folder or a GGUF file to a Hugging Face model whose linears are in four bits.

    source ─► files ─► headers + skeleton ─► plan ─► tensor by tensor: read, quantize on the device, put in place

transformers can quantize while loading too, but only through bitsandbytes, and it knows one way of choosing what to
quantize. Here the order is fixed by the plan, so at any time there is one 16-bit matrix beside what has been placed (on
a GPU also those that are on their way, half a gigabyte), and every tensor that stays in 16 bits has a reason that can
be printed.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from quatrain.adapters.originals import remember_originals
from quatrain.adapters.provenance import base_identity
from quatrain.models.filling import Progress, fill
from quatrain.models.opening import open_base
from quatrain.models.original_weights import original_weights
from quatrain.models.skeleton import set_generation
from quatrain.models.summary import attach_summary, summarize
from quatrain.offload import Streaming


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
    streaming: Streaming | None = None,
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
        streaming: Blocks whose 4-bit weights don't stay on the device: each moves to the host or to disk as soon as it
            is complete. None keeps all of them.
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
    base = open_base(
        source,
        quantization=quantization,
        double_quant=double_quant,
        block_size=block_size,
        compute_dtype=compute_dtype,
        device=device,
        keep_in_16bit=keep_in_16bit,
        quantize_head=quantize_head,
        quantize_embeddings=quantize_embeddings,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    model = base.skeleton
    fill(model, base.plan, base.weights, base.decisions, base.placement, streaming=streaming, progress=progress)
    _remember_originals(model, source, revision, trust_remote_code)
    tokenizer = base.read_tokenizer()
    set_generation(model, base.where, tokenizer)
    attach_summary(model, summarize(model, {name: decision.reason for name, decision in base.decisions.items()}))
    return model, tokenizer


def _remember_originals(
    model: PreTrainedModel, source: str | Path, revision: str | None, trust_remote_code: bool
) -> None:
    identity = base_identity(model)
    assert identity is not None
    remember_originals(
        model,
        partial(
            original_weights,
            source,
            identity.fingerprint,
            revision=identity.revision or revision,
            trust_remote_code=trust_remote_code,
        ),
    )
