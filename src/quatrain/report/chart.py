"""A chart: axes, ticks and curves, as fractions of a rectangle that the page's style sheet gives its size.

The drawing is made by hand rather than by matplotlib, because what a person opens on a phone and at night needs three
things that a plotting library's SVG can't do: text that keeps its size while the plot shrinks (ticks are HTML, placed
in percent; only the curves are SVG, stretched to fit, with strokes that don't stretch), colours that follow the
reader's light or dark mode, and values under the finger. What is left to do is choosing ticks and writing paths. It
also spares a report the second that importing a plotting library takes.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from quatrain.report.series import Point, Series, thinned
from quatrain.report.wording import number, scientific

STEP = "step"
"""What x is in a run's charts."""
BOX = 1000
"""Width and height of the SVG's own coordinates."""
LOG_FROM = 20
"""A logarithmic axis is used when the highest value is this many times the median, which a linear one would flatten."""

_PLAIN_FROM = 100
"""Ticks from zero: a label so far out differs from its neighbours in its last digits only, and is written in full."""

TINY = 1e-300
"""Values below this are as good as zero; computing with them would underflow."""


@dataclass(frozen=True)
class Axis:
    """A range of values and how it maps to 0..1."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Tick:
    percent: float
    label: str


@dataclass(frozen=True)
class Curve:
    name: str
    style: str
    line: str
    """SVG path data of the curve."""
    dots: str
    """SVG path data of the points that are drawn as dots."""
    data: list[Point]
    """The finite points that are drawn, for the page's script to read values from."""


@dataclass(frozen=True)
class Chart:
    """Everything that the template needs to draw one chart."""

    id: str
    title: str
    unit: str
    description: str
    """The curves in words, for a reader who can't see them."""
    x_name: str
    x: Axis
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    gaps: list[float]
    """Where, in percent of the width, a value wasn't finite."""

    @property
    def curves_data(self) -> list[dict[str, object]]:
        """The curves' values for the page's script."""
        return [{"name": c.name, "style": c.style, "points": c.data} for c in self.curves]


def chart(
    id: str, title: str, unit: str, series: list[Series], *, from_zero: bool = True, x_name: str = STEP
) -> Chart | None:
    """Lay out a chart of all series that have a finite point; None when no series has one.

    Args:
        id: unique in the page.
        from_zero: whether the values' axis begins at zero, where none is negative.
        x_name: what x counts or measures; steps are whole numbers.
    """
    shown = [s for s in series if s.finite]
    if not shown:
        return None
    places = [place for s in shown for place, _ in s.points]
    x = axis_of(min(places), max(places))
    y = _value_axis([value for s in shown for _, value in s.finite], from_zero)
    gaps = [100 * x.at(step) for step, value in thinned(shown[0].points) if not math.isfinite(value)]
    return Chart(
        id=id,
        title=title,
        unit=f"{unit}, log scale".removeprefix(", ") if y.log else unit,
        description=" ".join(_in_words(s, unit, x_name) for s in shown),
        x_name=x_name,
        x=x,
        x_ticks=[Tick(100 * x.at(v), label) for v, label in ticks(x, most=6, whole=x_name == STEP)],
        y_ticks=[Tick(100 * y.at(v), label) for v, label in ticks(y, most=5)],
        curves=[_curve(s, x, y) for s in shown],
        gaps=gaps,
    )


def ticks(axis: Axis, most: int, *, whole: bool = False) -> list[tuple[float, str]]:
    """About ``most`` round values within the axis (1, 2 or 5 times a power of ten apart), with labels.

    ``whole`` keeps them at least 1 apart, for an axis that counts.
    """
    if axis.log:
        powers = range(math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high) + 1e-9) + 1)
        stride = max(1, math.ceil(len(powers) / most))
        return [(10.0**p, number(10.0**p, digits=1)) for p in powers[::stride]]
    rough = max((axis.high - axis.low) / most, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [(i * step, _label(i * step, step)) for i in range(first, last + 1)]


def _label(value: float, step: float) -> str:
    if value == 0:
        return "0"
    if step < 1e-3 and abs(value) < _PLAIN_FROM * step:
        decimals = max(0, math.floor(math.log10(abs(value)) + 1e-9) - math.floor(math.log10(step) + 1e-9))
        return scientific(value, decimals)
    if abs(value) >= 10_000:
        return f"{value / 1000:,.{0 if step >= 1000 else 1}f}k"
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def axis_of(low: float, high: float) -> Axis:
    """An axis that isn't empty also where all values are the same, up to rounding."""
    largest = max(abs(low), abs(high))
    if high - low <= max(TINY, 1e-9 * largest):
        margin = largest / 2 if largest > TINY else 1.0
        return Axis(low - margin, high + margin)
    return Axis(low, high)


def _value_axis(values: list[float], from_zero: bool) -> Axis:
    low, high = min(values), max(values)
    if low > TINY and high > LOG_FROM * median(values):
        return Axis(low, high, log=True)
    if from_zero and low >= 0:
        return Axis(0.0, 1.08 * high) if high > TINY else Axis(0.0, 1.0)
    margin = 0.06 * (high - low)
    return axis_of(max(0.0, low - margin) if low >= 0 else low - margin, high + margin)


def _curve(series: Series, x: Axis, y: Axis) -> Curve:
    points = thinned(series.points)
    places = [f"{BOX * x.at(s):.1f} {BOX * (1 - y.at(v)):.1f}" if math.isfinite(v) else None for s, v in points]
    return Curve(
        name=series.name,
        style=series.style,
        line=_line(places),
        dots=_dots(places, all_points=series.markers),
        data=[(step, float(f"{value:.5g}")) for step, value in points if math.isfinite(value)],
    )


def _line(places: list[str | None]) -> str:
    """Path data through all places; where one is missing, the pen is lifted."""
    return "".join(("L" if before else "M") + place for before, place in pairwise([None, *places]) if place)


def _dots(places: list[str | None], all_points: bool) -> str:
    """Path data of dots at all places, or only at those without neighbours, which a line would leave invisible.

    A dot is a line of no length: its round cap is drawn as a circle that stays round however the SVG is stretched.
    """
    around = zip([None, *places], places, [*places[1:], None], strict=False)
    return "".join(f"M{place}h0" for before, place, after in around if place and (all_points or not (before or after)))


def _in_words(series: Series, unit: str, x_name: str) -> str:
    finite = series.finite
    (first_step, first), (last_step, last) = finite[0], finite[-1]
    lowest, highest = min(v for _, v in finite), max(v for _, v in finite)
    missing = len(series.points) - len(finite)
    return (
        f"{series.name}: {number(first)} {unit} at {x_name} {first_step:g}, {number(last)} at {x_name} {last_step:g}, "
        f"between {number(lowest)} and {number(highest)}."
        + (f" {missing} of {len(series.points)} values weren't finite." if missing else "")
    ).replace("  ", " ")
