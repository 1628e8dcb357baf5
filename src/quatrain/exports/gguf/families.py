"""What a model looks like in GGUF: its numbers, its tensors' names, and what llama.cpp changes in its weights.

Sources: the GGUF specification (ggml, docs/gguf.md); llama.cpp's `conversion/llama.py` and `qwen.py`.
"""

import math
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map
from torch import Tensor

from quatrain.errors import ModelError
from quatrain.models.gguf_config import SETTINGS
from quatrain.models.gguf_file import LAYOUTS


def add_numbers(writer: GGUFWriter, config: Any) -> None:
    """Write the sizes of a model, under the architecture's namespace."""
    for key, name in SETTINGS.items():
        value = config.rope_parameters["rope_theta"] if name == "rope_theta" else getattr(config, name, None)
        if value is None or key.startswith("tokenizer."):
            continue
        full = f"{writer.arch}.{key}"
        if isinstance(value, float):
            writer.add_float32(full, value)
        else:
            writer.add_uint32(full, value)
    size = head_size(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)


def head_size(config: Any) -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def gguf_name(architecture: str, blocks: int, parameter: str) -> str:
    """GGUF's name of a parameter.

    Raises:
        ModelError: GGUF has none.
    """
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    found = get_tensor_name_map(arch, blocks).get_name(parameter, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ModelError(f"GGUF has no tensor for {parameter} in the architecture {architecture}")
    return found


def as_stored(architecture: str, config: Any, name: str, rows: Tensor) -> Tensor:
    """A tensor as llama.cpp wants it.

    The Llama family's query and key rows alternate between the two halves of each head, for a rotary kernel that turns
    neighbours.

    Args:
        name: GGUF's.
        rows: [out, …]: a weight, a bias, or an adapter's B.
    """
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    if not LAYOUTS[architecture].interleaved or heads is None:
        return rows
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def rope_factors(config: Any) -> Tensor | None:
    """What Llama 3 divides each rotary frequency by, float32 [head size / 2]; None without its scaling."""
    rope = config.rope_parameters or {}
    if rope.get("rope_type", "default") != "llama3":
        return None
    size = head_size(config)
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    blend = ((rope["original_max_position_embeddings"] / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - blend) / rope["factor"] + blend)).float()
