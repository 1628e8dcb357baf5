"""Intervals against what is known in closed form, and against how often they hold the truth."""

import math
import statistics

import numpy as np
import pytest

from quatrain.errors import ConfigError, DataError
from quatrain.evaluation.statistics import Interval, bootstrap, mean_interval, paired_difference


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_mean_of_normal_values_has_the_interval_of_the_closed_form(level):
    values = np.random.default_rng(1).normal(3.0, 2.0, size=1000)
    found = mean_interval(values, level=level)
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    half = z * values.std() / math.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.06 * half)


@pytest.mark.parametrize(
    "draw, truth",
    [
        (lambda generator: generator.random(60) < 0.3, 0.3),
        (lambda generator: generator.exponential(size=60), 1.0),
    ],
    ids=["accuracy", "skewed"],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(draw, truth):
    generator = np.random.default_rng(2)
    held = [truth in mean_interval(draw(generator), level=0.9, samples=400, seed=n) for n in range(400)]
    # 400 trials are uncertain by 1.5 points; a small sample's bootstrap is known to be a little narrow.
    assert 0.85 <= np.mean(held) <= 0.94


def test_pairing_takes_out_what_both_share():
    generator = np.random.default_rng(3)
    hardness = generator.normal(0, 5, size=300)
    before, after = hardness + generator.normal(0, 0.1, 300), hardness + 0.05 + generator.normal(0, 0.1, 300)
    difference = paired_difference(before, after)
    assert 0 not in difference and 0.05 in difference
    assert mean_interval(after).low < mean_interval(before).mean < mean_interval(after).high


def test_equal_sides_show_no_difference():
    difference = paired_difference([1, 0, 1], [1, 0, 1])
    assert difference == Interval(0.0, 0.0, 0.0) and 0 in difference and difference.is_point
    assert not mean_interval([0.0, 1.0]).is_point


def test_the_seed_decides_and_the_parts_dont(monkeypatch):
    values = list(range(50))
    whole = mean_interval(values, samples=300)
    assert mean_interval(values, samples=300) == whole
    assert mean_interval(values, samples=300, seed=1) != whole
    monkeypatch.setattr(bootstrap, "_DRAWN_AT_ONCE", 50 * 7)
    assert mean_interval(values, samples=300) == whole


def test_a_weight_of_two_is_counted_twice():
    generator = np.random.default_rng(4)
    tokens = generator.integers(1, 9, size=400)
    losses = generator.normal(2, 1, size=400)
    found = mean_interval(losses, weights=tokens)
    assert found.mean == pytest.approx(np.repeat(losses, tokens).mean())
    # The spread of a ratio of sums, by the delta method.
    spread = np.sqrt(np.sum((tokens * (losses - found.mean)) ** 2)) / tokens.sum()
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert mean_interval(losses, weights=np.full(400, 3.0)).low == pytest.approx(mean_interval(losses).low)
    assert paired_difference(losses, losses + 1, weights=tokens).low == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, math.nan], [math.inf]])
def test_values_that_have_no_mean(values):
    with pytest.raises(DataError, match="an interval needs"):
        mean_interval(values)


def test_wrong_settings():
    with pytest.raises(DataError, match=r"same questions.*2 values and 1"):
        paired_difference([1, 2], [1])
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0]):
        with pytest.raises(DataError, match=r"2 values needs a positive weight"):
            mean_interval([1.0, 2.0], weights=weights)
    with pytest.raises(ConfigError, match="level"):
        mean_interval([1.0], level=95)
    with pytest.raises(ConfigError, match="samples"):
        mean_interval([1.0], samples=0)
