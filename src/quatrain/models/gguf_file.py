"""A GGUF file as a source of weights.

GGUF is llama.cpp's format: one file with metadata, vocabulary and tensors, most of them quantized by blocks of 32 or
256. Its own four-bit types aren't NormalFloat, so each tensor is dequantized by the package `gguf` (a slab of rows at
a time, straight from the memory map) and then takes the same way as a safetensors tensor. Configuration and tokenizer
come from transformers, which knows how llama.cpp names them.

llama.cpp changes some weights when it converts a model, and that has to be undone: the Llama family's query and key
rows are interleaved for its rotary kernel, and Gemma's norms are stored with their offset of one added. What a family
needs is a row in `LAYOUTS`; a family without a row is refused, because guessing wrong gives a model that runs and
talks nonsense. Sources: the GGUF specification (ggml, docs/gguf.md) and llama.cpp's convert_hf_to_gguf.py.
"""

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map
from gguf.quants import dequantize
from transformers import PreTrainedConfig, PreTrainedModel

from quatrain.errors import ModelError
from quatrain.models.host_memory import release_freed_pages
from quatrain.models.naming import Assignment, NamePlan, Stored

ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3's frequency factors, which Hugging Face describes by four numbers in the config instead."""

SLAB = 1 << 24
"""Elements dequantized at once: numpy needs several float32 temporaries of this size."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How an architecture's GGUF weights differ from Hugging Face's."""

    interleaved: bool = False
    """Rows of the query and key projections alternate between the two halves of each head."""
    norm_offset: float = 0.0
    """What llama.cpp added to the weights of norms."""


LAYOUTS = {
    "llama": Layout(interleaved=True),
    "qwen2": Layout(),
    "qwen3": Layout(),
    "phi3": Layout(),
    "gemma2": Layout(norm_offset=1.0),
    "gemma3": Layout(norm_offset=1.0),
}


class GgufFile:
    """The tensors of a GGUF file, under their GGUF names.

    Raises:
        ModelError: Not a GGUF file, not whole, or of an architecture whose layout we don't know.
    """

    def __init__(self, path: Path):
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, OSError) as error:
            raise ModelError(f"{path} must be a whole GGUF file: {error}. Download it again.") from error
        self.architecture = str(self.field("general.architecture"))
        if self.architecture not in LAYOUTS:
            raise ModelError(
                f"A GGUF file must be of a family whose weight layout is known ({', '.join(LAYOUTS)}); this one is "
                f"{self.architecture}. Use the model's safetensors."
            )
        self._by_name = {tensor.name: tensor for tensor in self._reader.tensors}
        self._heads = (int(self.field("attention.head_count")), int(self.field("attention.head_count_kv")))
        self.tensors = {
            name: Stored(shape=tuple(int(n) for n in reversed(t.shape)), nbytes=int(t.n_bytes), shard=0)
            for name, t in self._by_name.items()
        }

    def field(self, key: str, default: Any = None) -> Any:
        """A metadata value; keys without a namespace of their own are the architecture's."""
        full = key if key.startswith(("general.", "tokenizer.")) else f"{self.architecture}.{key}"
        field = self._reader.fields.get(full)
        return default if field is None else field.contents()

    def special_tokens(self) -> dict[str, int]:
        """Token numbers by role (`bos`, `eos`, `unk`, `pad`), as far as the file names them."""
        keys = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
        found = {role: self.field(f"tokenizer.ggml.{key}") for role, key in keys.items()}
        return {role: int(number) for role, number in found.items() if number is not None}

    def read(self, name: str) -> torch.Tensor:
        """The tensor in float32, dequantized, in Hugging Face's layout."""
        tensor = self._by_name[name]
        out = torch.empty(self.tensors[name].shape)
        rows = max(1, SLAB // max(1, out[0].numel())) if out.ndim > 1 else len(out)
        for start in range(0, len(out), rows):
            slab = tensor.data[start : start + rows]
            out.numpy()[start : start + rows] = dequantize(slab, tensor.tensor_type)
        layout = LAYOUTS[self.architecture]
        if layout.interleaved and (".attn_q." in name or ".attn_k." in name):
            out = _deinterleave(out, self._heads[0] if ".attn_q." in name else self._heads[1])
        if layout.norm_offset and name.endswith("norm.weight"):
            out -= layout.norm_offset
        return out

    def arriving(self, groups: list[list[str]], device: torch.device) -> Generator[dict[str, torch.Tensor], None, None]:
        """The tensors of each group in turn, as `read` gives them: numpy dequantizes, so they start on the CPU."""
        return ({name: self.read(name) for name in names} for names in groups)

    def close(self) -> None:
        """The file is only mapped and goes with the object; what dequantizing left behind is given back here."""
        release_freed_pages()

    def complete(self, config: PreTrainedConfig) -> None:
        """Puts into the config what transformers doesn't read from GGUF: the heads' width and Llama 3's rotary scaling.

        Gemma 2 27B scales its queries by hidden/heads instead of the heads' width; no field says so, and llama.cpp
        also tells it by the number of blocks.

        Raises:
            ModelError: The file scales rotary frequencies in a way that isn't supported.
        """
        scaling = self.field("rope.scaling.type", "none")
        if scaling != "none":
            raise ModelError(
                f"Rotary scaling in GGUF must be Llama 3's or none; this file has {scaling!r}. Use the safetensors."
            )
        head_dim = self.field("attention.key_length")
        if head_dim is not None and hasattr(config, "head_dim"):
            config.head_dim = int(head_dim)
        if self.architecture == "gemma2" and config.num_hidden_layers == 46:
            config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads
        if ROPE_FACTORS in self._by_name:
            factors = torch.from_numpy(np.array(self._by_name[ROPE_FACTORS].data, dtype=np.float32))
            config.rope_parameters = llama3_scaling(factors, float(self.field("rope.freq_base", 10000.0)))

    def plan_names(self, model: PreTrainedModel, stored: Iterable[str]) -> NamePlan:
        """Finds the stored tensor for each parameter of the (meta) model; the package's name table does the work."""
        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self.architecture)
        names = get_tensor_name_map(arch, int(self.field("block_count")))
        by_stored = {names.get_name(p, try_suffixes=(".weight", ".bias")): p for p in model.state_dict()}
        assignments = [Assignment(target=by_stored[s], sources=[s]) for s in stored if s in by_stored]
        unexpected = [s for s in stored if s not in by_stored and s != ROPE_FACTORS]
        return NamePlan(assignments=assignments, unexpected=unexpected)


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
        raise ModelError(f"{ROPE_FACTORS} must hold Llama 3's rotary factors; these are others. Use the safetensors.")
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _deinterleave(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (a0 b0 a1 b1 …) of each head back to (a0 a1 … b0 b1 …)."""
    half = x.shape[0] // heads // 2
    return x.reshape(heads, half, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)
