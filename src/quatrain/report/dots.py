"""Measurements beside one another: a line each with its name, a dot, the interval around it, and the number in words.

Dots rather than bars: what matters is how far results lie apart and whether their intervals part them, and a bar would
need an axis from zero, which squeezes exactly that. The numbers stand in the page as text, so nothing is to be read off
the axis, and nothing needs a pointer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from quatrain.report.chart import Axis, Tick, axis_of, ticks
from quatrain.report.wording import number

_MARGIN = 0.04


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of a plot."""

    label: str
    mean: float
    low: float | None = None
    """Of the interval; None without one. An interval without ends, as of a single value, isn't drawn."""
    high: float | None = None
    points: Sequence[float] = ()
    """Single measurements that the mean is of."""
    main: bool = False
    """Whether it is the line that the plot is about."""
    group: str = ""
    """Lines of a group stand under its name."""
    text: str | None = None
    """The result in words; None: the mean in three digits, and the interval."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends, if there are some and they are finite, as the mean."""
        if self.low is None or self.high is None or not all(map(math.isfinite, (self.mean, self.low, self.high))):
            return None
        return min(self.low, self.high), max(self.low, self.high)

    @property
    def in_words(self) -> str:
        """The result as it stands beside the dot."""
        if self.text is not None:
            return self.text
        if self.interval is None:
            return number(self.mean)
        return f"{number(self.mean)} ({number(self.interval[0])} to {number(self.interval[1])})"


@dataclass(frozen=True)
class Line:
    """A measurement, placed: everything in thousandths of the width; None where there is nothing finite."""

    label: str
    text: str
    main: bool
    mean: float | None
    interval: tuple[float, float] | None
    points: list[float]


@dataclass(frozen=True)
class DotPlot:
    """Everything that the template needs to draw one."""

    id: str
    title: str
    unit: str
    groups: list[tuple[str, list[Line]]]
    ticks: list[Tick]
    reference: float | None
    """Where a line is drawn through all rows, in thousandths of the width."""
    reference_name: str


def dot_plot(
    id: str,
    title: str,
    unit: str,
    rows: Sequence[Measured],
    *,
    reference: float | None = None,
    reference_name: str = "",
    from_zero: bool = False,
) -> DotPlot | None:
    """Lay out a plot; None when no row has a finite mean.

    Args:
        id: unique in the page.
        reference: a value that all are held against.
        reference_name: what it is.
        from_zero: whether the axis begins at zero, as for costs, of which one asks how many times as large they are.
    """
    finite = [row for row in rows if math.isfinite(row.mean)]
    if not finite:
        return None
    reference = reference if reference is not None and math.isfinite(reference) else None
    scale = _scale(finite, reference, from_zero=from_zero)
    return DotPlot(
        id=id,
        title=title,
        unit=unit,
        groups=[(name, [_line(row, scale) for row in of]) for name, of in groupby(rows, key=lambda row: row.group)],
        ticks=[Tick(100 * scale.at(value), label) for value, label in ticks(scale, most=5)],
        reference=None if reference is None else 1000 * scale.at(reference),
        reference_name=reference_name,
    )


def _scale(rows: Sequence[Measured], reference: float | None, *, from_zero: bool) -> Axis:
    values = [value for row in rows for value in (row.mean, *(row.interval or ()), *_finite(row.points))]
    values += [] if reference is None else [reference]
    low, high = min(values), max(values)
    if from_zero and low >= 0:
        return axis_of(0.0, high * (1 + _MARGIN))
    margin = _MARGIN * (high - low)
    return axis_of(low - margin, high + margin)


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _line(row: Measured, scale: Axis) -> Line:
    def place(value: float) -> float:
        return 1000 * scale.at(value)

    return Line(
        label=row.label,
        text=row.in_words,
        main=row.main,
        mean=place(row.mean) if math.isfinite(row.mean) else None,
        interval=None if row.interval is None else (place(row.interval[0]), place(row.interval[1])),
        points=[place(value) for value in _finite(row.points)] if math.isfinite(row.mean) else [],
    )
