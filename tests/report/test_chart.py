"""Axes, ticks and paths: round numbers inside the plot, no spike lost, no coordinate outside or undefined."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quatrain.report import wording
from quatrain.report.chart import Axis, chart, ticks
from quatrain.report.series import MOST_POINTS, Series, smoothed, thinned

values = st.floats(min_value=-3e38, max_value=3e38) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(values, max_size=60), st.booleans(), st.booleans())
@example([1.0, 21.0, 1e-308], False, False)
def test_whatever_the_values_all_that_is_drawn_lies_in_the_plot(numbers, markers, from_zero):
    points = [(float(i), value) for i, value in enumerate(numbers, start=1)]
    drawn = chart("id", "Title", "unit", [Series("s", "main", points, markers=markers)], from_zero=from_zero)
    assert (drawn is None) == (not any(map(math.isfinite, numbers)))
    if drawn is None:
        return
    curve = drawn.curves[0]
    coordinates = [float(n) for n in re.findall(r"-?[\d.]+(?:e[-+]?\d+)?", curve.line.replace("h0", ""))]
    assert len(coordinates) == 2 * sum(map(math.isfinite, numbers))
    assert all(-0.1 <= c <= 1000.1 for c in coordinates)
    assert all(-1e-6 <= t.percent <= 100 + 1e-6 for t in [*drawn.x_ticks, *drawn.y_ticks])
    assert len(drawn.gaps) == sum(not math.isfinite(v) for v in numbers)


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(0, 2.9), ["0", "1", "2"]),
        (Axis(0, 2.2e-4), ["0", "5e−5", "1e−4", "1.5e−4", "2e−4"]),
        (Axis(0, 0.03), ["0", "0.01", "0.02", "0.03"]),
        (Axis(0.692, 0.694), ["0.6920", "0.6925", "0.6930", "0.6935", "0.6940"]),
        (Axis(0, 45_000), ["0", "10k", "20k", "30k", "40k"]),
        (Axis(0.3, 0.8), ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]),
        (Axis(0.05, 20, log=True), ["0.1", "1", "10"]),
    ],
)
def test_ticks_are_round(axis, labels):
    assert [label for _, label in ticks(axis, most=5)] == labels


def test_steps_are_counted_in_whole_numbers():
    drawn = chart("id", "Loss", "", [Series("s", "main", [(1.0, 2.0), (2.0, 1.0)])])
    assert drawn is not None and [t.label for t in drawn.x_ticks] == ["1", "2"]


def test_a_spike_that_would_flatten_the_rest_gets_a_logarithmic_axis():
    spiky = [(float(i), 1000.0 if i == 7 else 1.0 + 0.1 * i) for i in range(20)]
    drawn = chart("id", "Norm", "", [Series("s", "main", spiky)])
    assert drawn is not None and drawn.unit == "log scale"
    assert "1,000" in drawn.description


def test_neighbours_of_a_missing_value_are_not_joined_and_a_lone_one_is_a_dot():
    points = [(1.0, 1.0), (2.0, math.nan), (3.0, 2.0), (4.0, 3.0)]
    drawn = chart("id", "Loss", "", [Series("s", "main", points)])
    assert drawn is not None
    assert [p[0] for p in re.findall(r"[ML][\d. ]+", drawn.curves[0].line)] == ["M", "M", "L"]
    assert drawn.curves[0].dots.count("h0") == 1
    assert drawn.description.endswith("1 of 4 values weren't finite.")


@given(st.lists(values, min_size=1, max_size=300))
def test_thinning_keeps_ends_extremes_and_gaps(numbers):
    points = [(float(i), value) for i, value in enumerate(numbers * 10)]
    kept = thinned(points, most=40)
    assert len(kept) <= 40 and kept == sorted(kept, key=lambda p: p[0])
    assert (kept[0][0], kept[-1][0]) == (0, len(points) - 1) or len(points) <= 40
    finite, still = [v for v in numbers if math.isfinite(v)], [v for _, v in kept if math.isfinite(v)]
    if finite:
        assert (min(still), max(still)) == (min(finite), max(finite))
    assert len(finite) == len(numbers) or any(not math.isfinite(v) for _, v in kept)


def test_short_curves_are_drawn_whole():
    points = [(float(i), 0.0) for i in range(MOST_POINTS)]
    assert thinned(points) is points


@given(st.floats(min_value=-1e6, max_value=1e6), st.integers(min_value=1, max_value=200))
def test_smoothing_a_constant_changes_nothing_from_the_first_point_on(value, length):
    points = [(float(i), value) for i in range(length)]
    assert [v for _, v in smoothed(points)] == pytest.approx([value] * length)


def test_smoothing_skips_what_is_not_finite():
    assert smoothed([(1.0, 2.0), (2.0, math.nan), (3.0, 2.0)]) == [(1.0, 2.0), (3.0, 2.0)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.number(0.0), "0"),
        (wording.number(12345.6), "12,346"),
        (wording.number(-0.00021), "−2.1e−4"),
        (wording.number(2e12), "2e12"),
        (wording.count(9_999), "9,999"),
        (wording.count(12_345), "12.3k"),
        (wording.count(134_515_008), "135M"),
        (wording.count(1_240_000_000), "1.24B"),
        (wording.score("exact_match", 0.875), "87.5 %"),
        (wording.score("acc", 0.2534), "25.3 %"),
        (wording.score("bits", 0.875), "0.875"),
        (wording.size(512 * 2**20), "512 MiB"),
        (wording.size(3 * 2**30), "3.00 GiB"),
        (wording.step_time(0.00906), "9.06 ms"),
        (wording.step_time(1.281), "1.28 s"),
        (wording.duration(4.21), "4.2 s"),
        (wording.duration(59.9), "60 s"),
        (wording.duration(61), "1 min 1 s"),
        (wording.duration(7_260), "2 h 1 min"),
    ],
)
def test_numbers_read_well(written, expected):
    assert written == expected
