"""Confidence intervals of a mean by the bootstrap (Efron, 1979): draw as many questions as there are, with replacement,
take their mean, do so many thousand times, and look where the middle of those means lies.

It asks nothing of the values but that the questions were chosen independently, so one rule serves accuracies (0 or 1),
losses and differences. The ends are percentiles of the drawn means, rather than those of BCa, which also corrects for
bias and skewness: a mean has no bias, its skewness falls with the square root of the number of questions, so that both
hold the truth equally often from 200 questions on (`benchmarks/results/lab/bootstrap.txt`), and a percentile can be
explained in one sentence. Neither sees a spread that no value shows: of 40 wrong answers out of 40 both say "0, for
sure".

Two models that answered the same questions are compared by the differences question by question. Hard questions are
hard for both, which the difference takes out; comparing two intervals that were made apart would miss most of what the
pairing shows.

scipy has this as `scipy.stats.bootstrap`; for means alone the few lines below spare everybody 100 MB of it.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from quatrain.errors import ConfigError, DataError
from quatrain.evaluation.statistics.interval import Interval

Values = Sequence[float] | np.ndarray

_DRAWN_AT_ONCE = 2**22
"""Numbers that are in memory at once, 32 MiB of them."""


def mean_interval(
    values: Values, *, weights: Values | None = None, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of `values` and the interval that holds the true mean in a share `level` of all cases.

    Args:
        values: [N], one for each question, drawn independently.
        weights: [N], positive: how much each counts, such as a text's tokens for a loss. None: all the same.
        level: between 0 and 1.
        samples: bootstrap samples; 10,000 leave each end uncertain by less than 1 % of the interval's width.
        seed: of the draws: the same values give the same interval.

    Raises:
        DataError: there are no values, or one isn't a finite number, or the weights don't fit them.
        ConfigError: `level` or `samples` is out of range.
    """
    numbers = _numbers(values)
    if not 0 < level < 1:
        raise ConfigError(f"`level` must lie between 0 and 1, got {level!r}; 0.95 is usual")
    if samples < 1:
        raise ConfigError(f"`samples` must be at least 1, got {samples!r}; 10,000 is usual")
    weighing = None if weights is None else _numbers(weights)
    if weighing is not None and (len(weighing) != len(numbers) or weighing.min() <= 0):
        raise DataError(f"each of {len(numbers)} values needs a positive weight, got {len(weighing)} weights")
    drawn = np.concatenate(list(_drawn_means(numbers, weighing, samples, seed)))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.average(numbers, weights=weighing)), float(low), float(high))


def paired_difference(
    before: Values,
    after: Values,
    *,
    weights: Values | None = None,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of `after` - `before`, which are [N] each for the same questions in the same order, and its interval.

    Raises:
        DataError: they aren't of one length; and as :func:`mean_interval`, which explains the rest.
    """
    first, second = _numbers(before), _numbers(after)
    if len(first) != len(second):
        raise DataError(
            f"a paired comparison needs the same questions on both sides, got {len(first)} values and {len(second)}; "
            "measure both on the same rows"
        )
    return mean_interval(second - first, weights=weights, level=level, samples=samples, seed=seed)


def _numbers(values: Values) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise DataError(f"an interval needs a list of at least one value, got one of shape {list(numbers.shape)}")
    if not np.isfinite(numbers).all():
        place = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise DataError(f"an interval needs finite values, value {place} is {numbers[place]}; leave it out, or mend it")
    return numbers


def _drawn_means(numbers: np.ndarray, weights: np.ndarray | None, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Means of `samples` bootstrap samples, a part at a time."""
    generator = np.random.default_rng(seed)
    most = max(1, _DRAWN_AT_ONCE // len(numbers))
    for part in range(math.ceil(samples / most)):
        rows = min(most, samples - part * most)
        drawn = generator.integers(len(numbers), size=(rows, len(numbers)))
        yield np.average(numbers[drawn], axis=1, weights=None if weights is None else weights[drawn])
