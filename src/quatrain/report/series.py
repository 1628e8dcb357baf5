"""Curves as lists of points, made readable: smoothed, and thinned to what a screen can show."""

import math
from dataclasses import dataclass

Point = tuple[float, float]

MOST_POINTS = 1000
"""Of one curve on the page: about one for each pixel that the widest chart has."""


@dataclass(frozen=True)
class Series:
    """One curve: ``points`` are (step, value) with steps ascending; a value may be NaN or infinite."""

    name: str
    style: str
    """The CSS class that gives the curve its colour."""
    points: list[Point]
    markers: bool = False
    """Whether each point is drawn as a dot, as befits few measurements far apart."""

    @property
    def finite(self) -> list[Point]:
        return [point for point in self.points if math.isfinite(point[1])]


def smoothed(points: list[Point]) -> list[Point]:
    """An exponential moving average over about a fortieth of the run; points that aren't finite are left out.

    It starts from nothing and is corrected for that (as Adam corrects its moments), so the first value is the curve's
    own and not pulled towards zero.
    """
    keep = 1 - 1 / max(1.0, len(points) / 40)
    total, weight, result = 0.0, 0.0, []
    for step, value in points:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
            result.append((step, total / weight))
    return result


def thinned(points: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points, from which no spike is missing.

    Runs of neighbours are replaced by their lowest and highest point, in order; a run with a value that isn't finite
    also keeps the first such point, so that the gap stays visible. The first and last point of all always stay.
    """
    if len(points) <= most:
        return points
    runs = most // 4
    kept = {0, len(points) - 1}
    for run in range(runs):
        indices = range(run * len(points) // runs, (run + 1) * len(points) // runs)
        finite = [i for i in indices if math.isfinite(points[i][1])]
        if finite:
            kept |= {min(finite, key=lambda i: points[i][1]), max(finite, key=lambda i: points[i][1])}
        kept |= set([i for i in indices if not math.isfinite(points[i][1])][:1])
    return [points[i] for i in sorted(kept)]
