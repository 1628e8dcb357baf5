"""A merged model as a GGUF file, with its tokenizer and chat template."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from torch import Tensor

from quatrain.errors import ModelError
from quatrain.exports.gguf.families import add_numbers, as_stored, gguf_name, rope_factors
from quatrain.exports.gguf.vocabulary import add_vocabulary
from quatrain.exports.gguf.writing import Planned, write_tensors
from quatrain.exports.merged_weights import MergedWeights
from quatrain.models.gguf_file import ROPE_FACTORS
from quatrain.models.gguf_writable import check_family

GGUF_TYPES = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""How matrices may be encoded. Smaller types come from llama.cpp's own `llama-quantize`, which takes any of these."""


def write_gguf(
    weights: MergedWeights, path: Path, kind: str, *, name: str, progress: Callable[[int, int], object]
) -> None:
    """Write a merged model. Vectors are float32, as llama.cpp computes with them.

    Args:
        weights: not rounded, so that each value is rounded once, to its type in the file.
        kind: one of `GGUF_TYPES`.
        name: what the file says it is.

    Raises:
        ModelError: the family or its tokenizer can't be said in GGUF.
        AdapterError: a merged weight isn't finite, or doesn't fit into F16.
        OutputError: the file isn't on the disk as it was written.
        OSError: the disk can't.
    """
    base = weights.base
    config: Any = base.skeleton.config
    architecture = check_family(config)
    tokenizer = base.read_tokenizer()
    if tokenizer is None:
        raise ModelError(f"a GGUF file holds its tokenizer; {base.where.name} has none. Add its tokenizer.json")
    encoding, file_type = GGUF_TYPES[kind]
    writer = GGUFWriter(path, architecture)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)
    add_numbers(writer, config)
    add_vocabulary(writer, tokenizer, config.vocab_size)
    write_tensors(writer, path, _planned(weights, architecture, encoding), progress)
    weights.close()


def _planned(weights: MergedWeights, architecture: str, encoding: GGMLQuantizationType) -> dict[str, Planned]:
    config: Any = weights.base.skeleton.config
    planned = {}
    for stored in weights.needed:
        target = weights.target(stored)
        if target is None:
            raise ModelError(f"GGUF export needs {stored} to be a parameter by itself; export safetensors instead")
        name, shape = gguf_name(architecture, config.num_hidden_layers, target), weights.tensors[stored].shape
        read = partial(_read, weights, architecture, stored, name)
        planned[name] = Planned(shape, _encoding_of(shape, encoding), read)
    factors = rope_factors(config)
    if factors is not None:
        planned[ROPE_FACTORS] = Planned(tuple(factors.shape), GGMLQuantizationType.F32, lambda: factors)
    return planned


def _read(weights: MergedWeights, architecture: str, stored: str, name: str) -> Tensor:
    tensor = weights.read(stored).to("cpu", torch.float32)
    return as_stored(architecture, weights.base.skeleton.config, name, tensor)


def _encoding_of(shape: tuple[int, ...], encoding: GGMLQuantizationType) -> GGMLQuantizationType:
    """Vectors stay in float32; a matrix whose rows aren't whole blocks takes float16."""
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    return GGMLQuantizationType.F16 if shape[-1] % GGML_QUANT_SIZES[encoding][0] else encoding
