"""A GGUF file as a source of weights.

GGUF is llama.cpp's format: one file with metadata, vocabulary and tensors, most of them quantized by blocks of 32 or
256. Its own four-bit types aren't NormalFloat, so each tensor is dequantized by the package `gguf` (a slab of rows at
a time, straight from the memory map) and then takes the same way as a safetensors tensor. The tokenizer comes from
transformers, which knows how llama.cpp stores it.

llama.cpp changes some weights when it converts a model, and that has to be undone: the Llama family's query and key
rows are interleaved for its rotary kernel, and Gemma's norms are stored with their offset of one added. What a family
needs is a row in `LAYOUTS`; a family without a row is refused, because guessing wrong gives a model that runs and
talks nonsense. Sources: the GGUF specification (ggml, docs/gguf.md) and llama.cpp's convert_hf_to_gguf.py.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from gguf.quants import dequantize
from transformers import PreTrainedConfig, PreTrainedModel

from quatrain.errors import ModelError
from quatrain.models.gguf_config import build_config
from quatrain.models.gguf_header import read_header
from quatrain.models.host_memory import release_freed_pages
from quatrain.models.naming import SAMPLE, Assignment, NamePlan, Stored
from quatrain.models.unusable import UNUSABLE

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
            self._header = read_header(path)
        except (ValueError, OSError) as error:
            raise ModelError(f"{path} must be a whole GGUF file: {error}. Download it again.") from error
        self.architecture = str(self.field("general.architecture"))
        if self.architecture not in LAYOUTS:
            raise ModelError(
                f"A GGUF file must be of a family whose weight layout is known ({', '.join(LAYOUTS)}); this one is "
                f"{self.architecture}. Use the model's safetensors."
            )
        self._heads = self._count("attention.head_count"), self._count("attention.head_count_kv")
        self.tensors = {
            name: Stored(shape=tensor.shape, nbytes=tensor.data.nbytes, shard=0)
            for name, tensor in self._header.tensors.items()
        }
        if self._count("block_count") > len(self.tensors):
            raise ModelError(
                f"{path} must hold tensors for each of its {self._count('block_count')} blocks; there are "
                f"{len(self.tensors)} tensors in all. Download it again."
            )
        self._check_heads()

    def _check_heads(self) -> None:
        """Rows that are interleaved by heads must be whole pairs of each."""
        for name, tensor in self.tensors.items():
            heads = self._heads_of(name)
            if heads is not None and (heads < 1 or tensor.shape[0] % (2 * heads)):
                raise ModelError(f"A GGUF file's {name} must have rows for {heads} heads; it has {tensor.shape[0]}.")

    def _heads_of(self, name: str) -> int | None:
        """Heads of a projection whose rows are interleaved; None for any other tensor."""
        if not LAYOUTS[self.architecture].interleaved:
            return None
        return self._heads[0] if ".attn_q." in name else self._heads[1] if ".attn_k." in name else None

    def field(self, key: str, default: Any = None) -> Any:
        """A metadata value; keys without a namespace of their own are the architecture's."""
        full = key if key.startswith(("general.", "tokenizer.")) else f"{self.architecture}.{key}"
        return self._header.fields.get(full, default)

    def _count(self, key: str) -> int:
        number = self.field(key)
        if not isinstance(number, int):
            raise ModelError(f"A GGUF file's {key} must be one number for all layers; here it is {number}.")
        return number

    def special_tokens(self) -> dict[str, int]:
        """Token numbers by role (`bos`, `eos`, `unk`, `pad`), as far as the file names them."""
        keys = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
        found = {role: self.field(f"tokenizer.ggml.{key}") for role, key in keys.items()}
        wrong = {role: number for role, number in found.items() if not isinstance(number, int | None)}
        if wrong:
            raise ModelError(f"A GGUF file's special tokens must be numbers; here they are {wrong}.")
        return {role: number for role, number in found.items() if number is not None}

    def read(self, name: str) -> torch.Tensor:
        """The tensor in float32, dequantized, in Hugging Face's layout."""
        tensor = self._header.tensors[name]
        # A vector is one row.
        rows = tensor.data.reshape(-1, tensor.data.shape[-1])
        out = torch.empty(len(rows), tensor.shape[-1])
        count = max(1, SLAB // max(1, tensor.shape[-1]))
        for start in range(0, len(rows), count):
            out.numpy()[start : start + count] = dequantize(rows[start : start + count], tensor.kind)
        out = out.view(tensor.shape)
        layout = LAYOUTS[self.architecture]
        if (heads := self._heads_of(name)) is not None:
            out = _deinterleave(out, heads)
        if layout.norm_offset and name.endswith("norm.weight"):
            out -= layout.norm_offset
        return out

    def sample(self, name: str) -> bytes:
        """The first and last stored bytes of the tensor."""
        stored = self._header.tensors[name].data.reshape(-1)
        return stored[:SAMPLE].tobytes() + stored[-SAMPLE:].tobytes()

    def arriving(self, groups: list[list[str]], device: torch.device) -> Generator[dict[str, torch.Tensor], None, None]:
        """The tensors of each group in turn, as `read` gives them: numpy dequantizes, so they start on the CPU."""
        return ({name: self.read(name) for name in names} for names in groups)

    def close(self) -> None:
        """The file is only mapped and goes with the object; what dequantizing left behind is given back here."""
        release_freed_pages()

    def config(self) -> PreTrainedConfig:
        """The configuration that the metadata describes.

        Raises:
            ModelError: The metadata describes no model, the file scales rotary frequencies in a way that isn't
                supported, or has no embedding.
        """
        factors = self.read(ROPE_FACTORS) if ROPE_FACTORS in self.tensors else None
        try:
            return build_config(self.architecture, self.field, self.tensors, factors)
        except ModelError:
            raise
        except UNUSABLE as error:
            raise ModelError(f"A GGUF file's metadata must describe its model; here: {error}.") from error

    def plan_names(self, model: PreTrainedModel, stored: Iterable[str]) -> NamePlan:
        """Finds the stored tensor for each parameter of the (meta) model; the package's name table does the work."""
        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self.architecture)
        names = get_tensor_name_map(arch, self._count("block_count"))
        by_stored = {names.get_name(p, try_suffixes=(".weight", ".bias")): p for p in model.state_dict()}
        assignments = [Assignment(target=by_stored[s], sources=[s]) for s in stored if s in by_stored]
        unexpected = [s for s in stored if s not in by_stored and s != ROPE_FACTORS]
        return NamePlan(assignments=assignments, unexpected=unexpected)


def _deinterleave(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (a0 b0 a1 b1 …) of each head back to (a0 a1 … b0 b1 …)."""
    half = x.shape[0] // heads // 2
    return x.reshape(heads, half, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)
