"""Starting a model's adapter from its weights, saving what that changed, and making the same base again."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.originals import original_weights
from quatrain.adapters.starts.changed_base import Start, change_base, start_from_weight, unchange_base
from quatrain.errors import AdapterError

STARTS = "start.safetensors"
_NAME = "init_lora_weights"
_TENSORS = tuple(field.name for field in fields(Start) if field.name != "name")

Progress = Callable[[int, int], None]
"""Told (layers done, of how many)."""


def start_from_weights(
    model: nn.Module, layers: Mapping[str, LoraLinear], name: str, *, loftq_iter: int, progress: Progress
) -> None:
    """Share each layer's weight between adapter and base, as the start `name` says.

    Raises:
        AdapterError: the weights can't be read, or are smaller than the rank.
    """
    with original_weights(model, _bases(layers), f"init_lora_weights={name!r}") as read:
        for done, (module, layer) in enumerate(layers.items()):
            progress(done, len(layers))
            weight_OI = read(module).to(layer.lora_A.device)
            start = start_from_weight(name, layer, weight_OI, loftq_iter=loftq_iter)
            layer.lora_A.data.copy_(start.a_RI)
            layer.lora_B.data.copy_(start.b_OR)
            change_base(layer, start, weight_OI)
    progress(len(layers), len(layers))


def starts_of(layers: Mapping[str, LoraLinear]) -> dict[str, Start]:
    """The starts of layers whose base was changed for them, by name."""
    return {name: layer.start for name, layer in layers.items() if layer.start is not None}


def restore_starts(model: nn.Module, layers: Mapping[str, LoraLinear], starts: Mapping[str, Start]) -> None:
    """Change the bases of `layers` as `starts` did before; A and B stay. Bases that are so already stay too.

    Raises:
        AdapterError: the weights can't be read.
    """
    changed = {name: layers[name] for name, start in starts.items() if layers[name].start != start}
    undo_starts(model, changed)
    with original_weights(model, _bases(changed), "going on from this checkpoint") as read:
        for name, layer in changed.items():
            change_base(layer, starts[name], read(name).to(layer.lora_A.device))


def undo_starts(model: nn.Module, layers: Mapping[str, LoraLinear]) -> None:
    """Give the bases of `layers` the weights that they had before; those in 16 bits up to their rounding."""
    changed = {name: layer for name, layer in layers.items() if layer.start is not None}
    if not changed:
        return
    with original_weights(model, _bases(changed), "taking this adapter off") as read:
        for name, layer in changed.items():
            unchange_base(layer, read(name).to(layer.lora_A.device))


def save_starts(starts: Mapping[str, Start], path: Path) -> None:
    """Write what :func:`restore_starts` needs."""
    tensors = {f"{name}.{field}": getattr(start, field) for name, start in starts.items() for field in _TENSORS}
    # PiSSA takes out what it starts from: one tensor, which the format wants once for each name.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={_NAME: next(iter(starts.values())).name})


def read_starts(path: Path) -> dict[str, Start]:
    """What :func:`save_starts` wrote.

    Raises:
        AdapterError: it isn't whole.
    """
    with safe_open(path, framework="pt") as file:
        kind = (file.metadata() or {}).get(_NAME, "")
        tensors = {key: file.get_tensor(key) for key in list(file.keys())}
    names = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    if any(f"{name}.{field}" not in tensors for name in names for field in _TENSORS):
        raise AdapterError(f"{path} lacks some of its tensors; use an earlier checkpoint")
    return {name: Start(kind, *(tensors[f"{name}.{field}"] for field in _TENSORS)) for name in names}


def _bases(layers: Mapping[str, LoraLinear]) -> dict[str, nn.Module]:
    return {name: layer.base_layer for name, layer in layers.items()}
