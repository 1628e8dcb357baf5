"""Student's t against the tables of textbooks."""

import math

import pytest

from benchmarks.quality.intervals import mean_interval, shown, t_quantile


@pytest.mark.parametrize(
    ("freedom", "known"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (100, 1.98397)]
)
def test_quantiles(freedom: int, known: float):
    assert t_quantile(freedom) == pytest.approx(known, rel=1e-5)


def test_an_interval_of_three():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2 and interval.high - 2 == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert shown(interval, digits=2) == "2.00 ± 2.48"
    assert shown(mean_interval([-1.0, -2.0, -3.0]), digits=2) == "−2.00 ± 2.48"


def test_of_one_value_nothing_is_known():
    assert shown(mean_interval([0.5])) == "0.5000"
