"""Starting a model's adapter from its weights, making the same base again, and giving it its own weights back."""

from collections.abc import Callable, Mapping

from torch import nn

from quatrain.adapters.lora import LoraLinear
from quatrain.adapters.originals import original_weights
from quatrain.adapters.starts.changed_base import change_base, start_from_weight, unchange_base
from quatrain.adapters.starts.start import Start

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


def share_weights(model: nn.Module, layers: Mapping[str, LoraLinear], starts: Mapping[str, Start]) -> None:
    """Bring the bases of `layers` to what `starts` leave of them, and others to their own weights; A and B stay.

    Raises:
        AdapterError: the weights can't be read.
    """
    other = {name: layer for name, layer in layers.items() if layer.start != starts.get(name)}
    changed = {name: layer for name, layer in other.items() if name in starts}
    undo_starts(model, other)
    if not changed:
        return
    with original_weights(model, _bases(changed), "putting this adapter on") as read:
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


def _bases(layers: Mapping[str, LoraLinear]) -> dict[str, nn.Module]:
    return {name: layer.base_layer for name, layer in layers.items()}
