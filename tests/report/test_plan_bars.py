"""Planned and measured memory on one scale, whatever the events say."""

import pytest

from quatrain.report.plan_bars import plan_bars
from quatrain.runlog import PlanChecked, Planned


def planned(peak: int, **parts: int) -> Planned:
    return Planned(budget=1000, parts=parts, peak=peak, seconds=2.0, exact=True, notes=["why"])


def checked(measured: int) -> PlanChecked:
    return PlanChecked(step=9, predicted_peak=100, measured_peak=measured, predicted_seconds=2.0, measured_seconds=1.0)


def test_the_longest_bar_is_full_and_small_parts_are_one():
    bars = plan_bars([planned(100, codes=70, adapters=25, scales=1, buffers=1), checked(125)])
    assert bars is not None
    assert (bars.planned_percent, bars.measured_percent, bars.measured_seconds) == (80.0, 100.0, 1.0)
    assert [(p.name, p.nbytes, p.percent) for p in bars.parts] == [
        ("codes", 70, 56.0),
        ("adapters", 25, 20.0),
        ("other", 5, 4.0),
    ]


def test_many_parts_keep_within_the_colours_and_add_up():
    bars = plan_bars([planned(90, **{f"part {i}": 9 for i in range(10)})])
    assert bars is not None and bars.measured is None
    assert len(bars.parts) == 7 and sum(p.nbytes for p in bars.parts) == 90


def test_the_last_plan_counts_and_without_one_there_are_no_bars():
    bars = plan_bars([planned(1, codes=1), planned(50, codes=50)])
    assert bars is not None and bars.planned == 50
    assert plan_bars([checked(1)]) is None


@pytest.mark.parametrize("peak", [0, -5, 10**99])
def test_odd_numbers_are_drawn_within_the_figure(peak: int):
    bars = plan_bars([planned(peak, codes=peak)])
    assert bars is not None and all(0 <= p.percent <= 100 for p in bars.parts)
