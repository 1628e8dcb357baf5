"""What goes into arithmetic: adapters of one base that were trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quatrain.adapters.peft_format import read_adapter
from quatrain.adapters.provenance import Provenance, installed_versions
from quatrain.adapters.stored import StoredAdapter
from quatrain.errors import AdapterError


def read_inputs(folders: Sequence[str | Path], *, force: bool = False) -> list[StoredAdapter]:
    """The adapters of `folders` that are to be combined, in order.

    Args:
        force: accept adapters that were trained on different bases, as long as shapes fit.

    Raises:
        AdapterError: one can't be read, was never trained, holds more than low-rank updates, or doesn't fit the first.
    """
    adapters = [read_trained(folder) for folder in folders]
    for folder, adapter in zip(folders, adapters, strict=True):
        if adapter.beyond_lora is not None:
            raise AdapterError(
                f"{folder} holds {adapter.beyond_lora}, and only low-rank updates can be added; `quatrain merge` puts "
                "such an adapter into its base"
            )
        if not force:
            _check_base(folders[0], adapters[0], folder, adapter)
        _check_shapes(folders[0], adapters[0], folder, adapter)
    return adapters


def read_trained(folder: str | Path) -> StoredAdapter:
    """The adapter of a folder.

    Raises:
        AdapterError: it can't be read or was never trained.
    """
    adapter = read_adapter(folder)
    if adapter.beyond_lora is None and all(layer.is_zero for layer in adapter.layers.values()):
        raise AdapterError(f"{folder} changes nothing: its B is zero, as before training; train it first")
    return adapter


def _check_base(first: str | Path, one: StoredAdapter, second: str | Path, other: StoredAdapter) -> None:
    """By the fingerprints of the bases' weights, or by their names where one isn't known."""
    bases = [adapter.provenance.base if adapter.provenance else None for adapter in (one, other)]
    if bases[0] is not None and bases[1] is not None:
        same, shown = bases[0].is_same(bases[1]), (str(bases[0]), str(bases[1]))
    else:
        same, shown = None in (one.base, other.base) or one.base == other.base, (one.base, other.base)
    if not same:
        raise AdapterError(
            f"adapters must be of one base: {first} was trained on {shown[0]}, {second} on {shown[1]}. Use force if "
            "you know that the two fit"
        )


def _check_shapes(first: str | Path, one: StoredAdapter, second: str | Path, other: StoredAdapter) -> None:
    for name, layer in one.layers.items():
        shapes = layer.shape, (other.layers.get(name) or layer).shape
        if shapes[0] != shapes[1]:
            raise AdapterError(
                f"{name} is {list(shapes[0])} in {first} and {list(shapes[1])} in {second}: they are of different bases"
            )


def joint_provenance(adapters: Sequence[StoredAdapter], made: str) -> Provenance:
    """What they have in common, and `made`, how the result was made of them."""
    known = [adapter.provenance or Provenance() for adapter in adapters]
    return replace(
        known[0],
        base=next((provenance.base for provenance in known if provenance.base is not None), None),
        **{name: _common([getattr(p, name) for p in known]) for name in _COMPARED},
        versions=installed_versions(),
        made=made,
    )


_COMPARED = ("quantization", "block_size", "double_quant", "compute_dtype", "tokenizer", "chat_template")


def _common(values: list[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None
