"""Dot plots: everything on one scale, groups in order, and nothing drawn for what isn't finite."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatrain.report.dots import Measured, dot_plot

numbers = st.floats(min_value=-1e300, max_value=1e300) | st.sampled_from([math.nan, math.inf, -math.inf])
rows = st.builds(
    lambda mean, low, high, points: Measured(label="x", mean=mean, low=low, high=high, points=points),
    numbers,
    st.none() | numbers,
    st.none() | numbers,
    st.lists(numbers, max_size=3),
)


@given(st.lists(rows, max_size=6), st.none() | numbers)
def test_whatever_the_numbers_all_that_is_drawn_lies_in_the_plot(measured, reference):
    drawn = dot_plot("id", "Title", "unit", measured, reference=reference)
    assert (drawn is None) == (not any(math.isfinite(row.mean) for row in measured))
    if drawn is None:
        return
    lines = [line for _, group in drawn.groups for line in group]
    assert len(lines) == len(measured)
    placed = [p for line in lines for p in (line.mean, *(line.interval or ()), *line.points) if p is not None]
    assert all(-1e-6 <= place <= 1000 + 1e-6 for place in placed)
    assert all(-1e-6 <= tick.percent <= 100 + 1e-6 for tick in drawn.ticks)


def test_a_line_says_its_mean_and_interval_unless_it_has_words_of_its_own():
    plain = Measured(label="a", mean=1.0, low=0.9, high=1.25)
    assert plain.in_words == "1.00 (0.900 to 1.25)"
    assert Measured(label="a", mean=1.0, low=-math.inf, high=math.inf).in_words == "1.00"
    assert Measured(label="a", mean=1.0, text="one").in_words == "one"


def test_groups_stay_in_order_and_the_reference_is_on_the_scale():
    measured = [Measured(label=name, mean=value, group=name[0]) for name, value in (("a1", 1), ("a2", 2), ("b1", 3))]
    drawn = dot_plot("id", "Title", "", measured, reference=5.0, reference_name="goal")
    assert drawn is not None and drawn.reference is not None
    assert [(name, len(lines)) for name, lines in drawn.groups] == [("a", 2), ("b", 1)]
    means = [line.mean or 0.0 for _, lines in drawn.groups for line in lines]
    assert means == pytest.approx([means[0], means[0] + 1000 / 4.32, means[0] + 2000 / 4.32])
    assert drawn.reference == pytest.approx(means[0] + 4000 / 4.32)


def test_costs_are_measured_from_zero():
    measured = [Measured(label="a", mean=10.0), Measured(label="b", mean=20.0)]
    drawn = dot_plot("id", "Time", "ms", measured, from_zero=True)
    assert drawn is not None and drawn.ticks[0].percent == 0
    one, two = (line.mean or 0.0 for line in drawn.groups[0][1])
    assert two == pytest.approx(2 * one)
