"""Intervals of means over a few seeds, by Student's t; of shares of many answers, by the bootstrap.

The bootstrap of :mod:`quatrain.evaluation.statistics` draws from the values that there are; of three it makes intervals
that hold the truth in three cases out of four and claim nineteen out of twenty. Student's t takes into account that the
spread itself is guessed from three values, at the price of wide intervals (4.3 standard errors to each side), and
assumes that runs of different seeds scatter normally.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from quatrain.evaluation import statistics as over_questions
from quatrain.evaluation.statistics import Interval
from quatrain.report.wording import MINUS

LEVEL = 0.95
_INTERVALS = 2000
"""Of Simpson's rule; the quantile is exact to 1e-6."""


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its 95 % interval; of a single value the interval is all numbers."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def shown(interval: Interval, digits: int = 4) -> str:
    """Such as "0.8123 ± 0.0042"; a mean alone where nothing is known of its spread."""
    half = (interval.high - interval.low) / 2
    spread = f" ± {half:.{digits}f}" if math.isfinite(half) else ""
    return f"{interval.mean:.{digits}f}".replace("-", MINUS) + spread


def answers_shown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Right answers of the runs that answered any, such as "4.3 % (2.0–7.0 %)", whose interval is over questions."""
    scored = [(row["number_match"], row["answers"]) for row in rows if row["answers"]]
    if not scored:
        return "–"
    values = [float(i < round(share * count)) for share, count in scored for i in range(count)]
    found = over_questions.mean_interval(values)
    return f"{100 * found.mean:.1f} % ({100 * found.low:.1f}–{100 * found.high:.1f} %)"


def t_quantile(freedom: int) -> float:
    """How many standard errors to each side hold a mean in `LEVEL` of all cases, by bisection of the distribution."""
    low, high = 0.0, 1000.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < LEVEL else (low, middle)
    return low


def _within(t: float, freedom: int) -> float:
    """Probability that |T| < t: with T = √ν·tan θ the density is cos θ to the power of ν - 1, smooth and bounded."""
    end = math.atan(t / math.sqrt(freedom))
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi) * math.gamma(freedom / 2))
    step = end / _INTERVALS
    weights = [1, *[4, 2] * (_INTERVALS // 2 - 1), 4, 1]
    area = sum(weight * math.cos(i * step) ** (freedom - 1) for i, weight in enumerate(weights)) * step / 3
    return 2 * scale * area
