"""What a start has taken out of the base, and its file beside the adapter, which means nothing without it.

An adapter that started so computes on q(W − s·B' A'), where q quantizes as the run's base was quantized, not on q(W).
Without quantization the difference vanishes, and a plain adapter of twice the rank says the same of W itself, as PEFT
converts it. That plain one is what a folder in PEFT's format holds; `start.safetensors` is for those who quantize.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quatrain.adapters.starts.names import changes_base, checked_name
from quatrain.errors import AdapterError, ConfigError
from quatrain.files import save_tensors
from quatrain.untrusted import file_in

STARTS = "start.safetensors"
_NAME = "init_lora_weights"


@dataclass(frozen=True, eq=False)
class Start:
    """Where a layer started that shares its weight with the base; float32 on the CPU."""

    name: str
    """Of the start, as in `init_lora_weights`."""
    a_RI: Tensor
    """A before the first step."""
    b_OR: Tensor
    """B before the first step."""
    taken_a_RI: Tensor
    """With `taken_b_OR`: what was taken out of the weight before it was stored."""
    taken_b_OR: Tensor

    def __post_init__(self):
        for name in _TENSORS:
            object.__setattr__(self, name, getattr(self, name).detach().to("cpu", torch.float32).contiguous())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Start) and all(
            torch.equal(getattr(self, name), getattr(other, name)) for name in _TENSORS
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def rest(self, weight_OI: Tensor, scaling: float) -> Tensor:
        """What is left of a weight [out, in] for the base to hold, in float32. A negative scale gives it back."""
        return without(weight_OI, self.taken_b_OR, self.taken_a_RI, scaling)


_TENSORS = tuple(field.name for field in fields(Start) if field.name != "name")


def without(weight_OI: Tensor, b_OR: Tensor, a_RI: Tensor, scaling: float) -> Tensor:
    """weight − scaling · B A, in float32; the product that decides codes is taken in 64 bits."""
    b_OR, a_RI = b_OR.to(weight_OI.device).double(), a_RI.to(weight_OI.device).double()
    return (weight_OI.double() - scaling * (b_OR @ a_RI)).float()


def save_starts(starts: Mapping[str, Start], path: Path) -> None:
    """Write the starts of layers by name, of which there must be some, and read them back. Raises as
    :func:`quatrain.files.save_tensors`."""
    tensors = {f"{name}.{field}": getattr(start, field) for name, start in starts.items() for field in _TENSORS}
    # PiSSA takes out what it starts from: one tensor, which the format wants once for each name.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_tensors(tensors, path, {_NAME: next(iter(starts.values())).name})


def read_starts(folder: Path) -> dict[str, Start]:
    """What :func:`save_starts` wrote to `STARTS` in a folder; empty if that isn't there.

    Raises:
        AdapterError: it is damaged.
    """
    path = folder / STARTS
    if not path.exists():
        return {}
    try:
        with safe_open(file_in(folder, STARTS), framework="pt") as file:
            kind = checked_name((file.metadata() or {}).get(_NAME))
            tensors = {key: file.get_tensor(key) for key in list(file.keys())}
    except (SafetensorError, OSError, ValueError, ConfigError) as error:
        raise AdapterError(f"{path} is damaged: {error}. Copy or download it again") from error
    names = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    whole = all(f"{name}.{field}" in tensors for name in names for field in _TENSORS)
    if not whole or not changes_base(kind) or not all(t.isfinite().all() for t in tensors.values()):
        raise AdapterError(f"{path} is damaged: it lacks tensors, or holds values that aren't finite. Copy it again")
    return {name: Start(str(kind), *(tensors[f"{name}.{field}"] for field in _TENSORS)) for name in names}
