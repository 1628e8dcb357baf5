"""What an adapter is, for people: its rank, how much it changes in each layer, and what it was trained on."""

import math
from dataclasses import dataclass
from pathlib import Path

from quatrain.adapters.arithmetic.factors import factors_of, singular_values
from quatrain.adapters.low_rank import LowRank
from quatrain.adapters.peft_format import read_adapter
from quatrain.adapters.stored import StoredAdapter

SHARE = 0.99
"""Of an update's squared norm, for `LayerSummary.enough`."""


@dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """One layer's update ΔW."""

    name: str
    """Of the module in the base."""
    shape: tuple[int, int]
    """(outputs, inputs)."""
    r: int
    """Rank."""
    scaling: float
    """ΔW = scaling · B A."""
    norm: float
    """Frobenius norm of ΔW."""
    spectral_norm: float
    """Its largest singular value: the most that it can lengthen an input."""
    enough: int
    """The smallest rank that keeps 99 % of the squared norm: what `convert` could cut it to."""


@dataclass(frozen=True, kw_only=True)
class AdapterSummary:
    """A whole adapter."""

    folder: Path
    adapter: StoredAdapter
    layers: tuple[LayerSummary, ...]
    """Block after block."""

    @property
    def parameters(self) -> int:
        """Numbers that were trained."""
        return sum(layer.a_RI.numel() + layer.b_OR.numel() for layer in self.adapter.layers.values())

    @property
    def norm(self) -> float:
        """Frobenius norm of all updates together."""
        return math.sqrt(sum(layer.norm**2 for layer in self.layers))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The different ranks that there are, ascending."""
        return tuple(sorted({layer.r for layer in self.layers}))


def adapter_summary(folder: str | Path) -> AdapterSummary:
    """Look at an adapter without loading its base.

    Raises:
        AdapterError: it can't be read.
    """
    adapter = read_adapter(folder)
    layers = tuple(_summary(name, layer) for name, layer in adapter.layers.items())
    return AdapterSummary(folder=Path(folder), adapter=adapter, layers=layers)


def _summary(name: str, layer: LowRank) -> LayerSummary:
    values = singular_values(factors_of(layer))
    squares = values.square()
    total = float(squares.sum())
    enough = int((squares.cumsum(0) < SHARE * total).sum()) + 1 if total else 0
    return LayerSummary(
        name=name,
        shape=layer.shape,
        r=layer.r,
        scaling=layer.scaling,
        norm=math.sqrt(total),
        spectral_norm=float(values[0]),
        enough=enough,
    )
