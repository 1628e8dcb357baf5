"""How much the adapter changes each linear, as a map: blocks across, kinds of linear downwards.

What it shows at a glance is where training went: into attention or into the MLP, into early or late blocks, and whether
a projection stayed as it was. The colours run from the smallest to the largest norm there is.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from quatrain.report.chart import Axis, Tick, ticks
from quatrain.report.wording import number

_PALEST = 0.08
"""Opacity of the smallest norm: a cell that is there differs from one that isn't."""


@dataclass(frozen=True)
class Cell:
    """A linear of a block."""

    row: int
    column: int
    opacity: float


@dataclass(frozen=True)
class HeatMap:
    """Everything that the template needs to draw it."""

    rows: list[str]
    """Kinds of linear."""
    columns: list[int]
    """Numbers of the blocks."""
    values: list[list[float | None]]
    """Norms by row and column; None where a block has no such linear, or its norm isn't finite."""
    cells: list[Cell]
    ticks: list[Tick]
    lowest: float
    highest: float
    total: float
    """Frobenius norm of all updates together."""
    elsewhere: dict[str, float]
    """Norms of what stands outside of blocks, by name."""

    @property
    def description(self) -> str:
        """The map in words, for a reader who can't see it."""
        strongest = max((v, r, c) for r, row in enumerate(self.values) for c, v in enumerate(row) if v is not None)
        return (
            f"{len(self.rows)} kinds of linear in {len(self.columns)} blocks, norms from {number(self.lowest)} to "
            f"{number(self.highest)}; the largest is {self.rows[strongest[1]]} of block {self.columns[strongest[2]]}."
        )


def adapter_map(norms: Mapping[str, float]) -> HeatMap | None:
    """The map of an adapter's norms by module name; None when no block has one.

    A kind is a name's last part; where a block has several of it, as experts, their norms count together.
    """
    squares: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    elsewhere = {}
    for name, norm in norms.items():
        block = _block(name)
        if block is None:
            elsewhere[name] = norm
        else:
            squares[name.rpartition(".")[2]][block] += norm**2
    columns = sorted({block for kind in squares.values() for block in kind})
    values = [[_norm(kind.get(block)) for block in columns] for kind in squares.values()]
    there = [value for row in values for value in row if value is not None]
    if not there:
        return None
    low, high = min(there), max(there)
    return HeatMap(
        rows=list(squares),
        columns=columns,
        values=values,
        cells=[
            Cell(r, c, _opacity(value, low, high))
            for r, row in enumerate(values)
            for c, value in enumerate(row)
            if value is not None
        ],
        ticks=_ticks(columns),
        lowest=low,
        highest=high,
        total=math.sqrt(sum(v**2 for v in [*there, *elsewhere.values()])),
        elsewhere=elsewhere,
    )


def _block(name: str) -> int | None:
    """A name's first number."""
    return next((int(part) for part in name.split(".") if part.isdecimal() and len(part) < 7), None)


def _norm(squared: float | None) -> float | None:
    return math.sqrt(squared) if squared is not None and math.isfinite(squared) else None


def _opacity(value: float, low: float, high: float) -> float:
    return _PALEST + (1 - _PALEST) * ((value - low) / (high - low) if high > low else 1.0)


def _ticks(columns: list[int]) -> list[Tick]:
    """Round block numbers, under the middle of their columns."""
    axis = Axis(columns[0], max(columns[-1], columns[0] + 1))
    round_ones = {round(value): label for value, label in ticks(axis, most=8, whole=True)}
    places = {block: place for place, block in enumerate(columns)}
    return [
        Tick(100 * (places[block] + 0.5) / len(columns), label)
        for block, label in round_ones.items()
        if block in places
    ]
