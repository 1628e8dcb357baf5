"""What a GGUF file's metadata says about its model, as a Hugging Face configuration.

transformers reads it too, but takes seconds for that (it parses the whole vocabulary on the way), and knows neither the
heads' width of every family nor Llama 3's rotary scaling. The families that we load (`LAYOUTS` in `gguf_file.py`) share
one table of names.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from quatrain.errors import ModelError
from quatrain.models.naming import Stored

SETTINGS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.unknown_token_id": "unk_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}
"""llama.cpp's keys, and Hugging Face's."""

WINDOWED = frozenset({"gemma2", "gemma3"})
"""Architectures whose sliding window the file gives."""

MODEL_TYPES = {"gemma3": "gemma3_text"}
"""Hugging Face's model type, where it isn't the architecture's name."""


def build_config(
    architecture: str, field: Callable[[str], Any], tensors: Mapping[str, Stored], factors: torch.Tensor | None
) -> PreTrainedConfig:
    """The configuration of a GGUF file of a known family.

    Gemma 2 27B scales its queries by hidden/heads instead of the heads' width; no field says so, and llama.cpp also
    tells it by the number of blocks.

    Args:
        architecture: GGUF's name of the family.
        field: Gives a value of the metadata, or None.
        tensors: The stored tensors by their GGUF names.
        factors: Llama 3's rotary factors, if the file has them.

    Raises:
        ModelError: The file scales rotary frequencies in a way that isn't supported, or has no embedding.
    """
    scaling = field("rope.scaling.type") or "none"
    if scaling != "none":
        raise ModelError(
            f"Rotary scaling in GGUF must be Llama 3's or none; this file has {scaling!r}. Use the safetensors."
        )
    if "token_embd.weight" not in tensors:
        raise ModelError("A GGUF file must hold the embedding, token_embd.weight; this one doesn't. Download it again.")
    settings = {name: field(key) for key, name in SETTINGS.items()}
    if architecture in WINDOWED:
        settings["sliding_window"] = field("attention.sliding_window")
    config = AutoConfig.for_model(
        MODEL_TYPES.get(architecture, architecture),
        vocab_size=tensors["token_embd.weight"].shape[0],
        tie_word_embeddings="output.weight" not in tensors,
        **{name: value for name, value in settings.items() if value is not None},
    )
    head_dim = field("attention.key_length") or (field("rope.dimension_count") if architecture == "llama" else None)
    if head_dim is not None and hasattr(config, "head_dim"):
        config.head_dim = head_dim
    if architecture == "gemma2" and config.num_hidden_layers == 46:
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads
    if factors is not None:
        config.rope_parameters = llama3_scaling(factors, float(field("rope.freq_base") or 10000.0))
    return config


def llama3_scaling(factors: torch.Tensor, theta: float) -> dict:
    """The four numbers behind Llama 3's frequency factors, checked by computing the factors from them.

    Only the factor differs between published models; the two cut-offs and the original length are the family's.

    Args:
        factors: What each rotary frequency is divided by, float32 [head_dim/2].
        theta: The rotary base.

    Raises:
        ModelError: The factors aren't Llama 3's.
    """
    factor, low, high, original = round(float(factors.max()), 4), 1.0, 4.0, 8192
    wavelengths = 2 * math.pi * theta ** (torch.arange(len(factors), dtype=torch.float64) / len(factors))
    blend = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - blend) / factor + blend)
    if not torch.allclose(factors.double(), expected, rtol=1e-3):
        raise ModelError("rope_freqs.weight must hold Llama 3's rotary factors; these are others. Use the safetensors.")
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
