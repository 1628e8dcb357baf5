"""An adapter alone as a GGUF file, which llama.cpp puts on a GGUF base (`llama-cli --lora`, Ollama's `ADAPTER`).

llama.cpp computes x·Wᵀ + (alpha / rank) · (x·Aᵀ)·Bᵀ with one alpha for the whole file; where layers scale otherwise
(rank-stabilized LoRA, patterns), B takes the difference.

Source: llama.cpp's `convert_lora_to_gguf.py` and `src/llama-adapter.cpp`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFWriter
from torch import Tensor

from quatrain.adapters.low_rank import LowRank
from quatrain.adapters.stored import StoredAdapter
from quatrain.errors import AdapterError
from quatrain.exports.gguf.families import as_stored, gguf_name
from quatrain.exports.gguf.writing import Planned, write_tensors
from quatrain.models.gguf_writable import check_family


def write_gguf_adapter(
    adapter: StoredAdapter, config: Any, path: Path, *, name: str, progress: Callable[[int, int], object]
) -> None:
    """Write an adapter in float32.

    Args:
        config: the base's Hugging Face configuration.
        name: what the file says it is.

    Raises:
        ModelError: the base's family can't be said in GGUF.
        AdapterError: a layer of the adapter can't.
        OutputError: the file isn't on the disk as it was written.
        OSError: the disk can't.
    """
    if adapter.beyond_lora is not None:
        raise AdapterError(f"llama.cpp's adapters are plain LoRA, and this one has {adapter.beyond_lora}; export gguf")
    architecture = check_family(config)
    alpha = next((layer.lora_alpha for layer in adapter.layers.values() if layer.lora_alpha), 1.0)
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_name(name)
    planned = {}
    for module, layer in adapter.layers.items():
        stored = gguf_name(architecture, config.num_hidden_layers, f"{module}.weight")
        planned |= _halves(stored, layer, alpha, partial(as_stored, architecture, config, stored))
    write_tensors(writer, path, planned, progress)


def _halves(name: str, layer: LowRank, alpha: float, turned: Callable[[Tensor], Tensor]) -> dict[str, Planned]:
    a_RI, b_OR = layer.a_RI.float(), turned(layer.b_OR.float() * (layer.scaling * layer.r / alpha))
    kind = GGMLQuantizationType.F32
    return {
        f"{name}.lora_a": Planned(tuple(a_RI.shape), kind, lambda: a_RI),
        f"{name}.lora_b": Planned(tuple(b_OR.shape), kind, lambda: b_OR),
    }
