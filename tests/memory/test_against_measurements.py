"""Plans against what an H200 measured, every row of the committed result files: peaks from the allocator, times from
the clock."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.measurements.planning import Trial, predicted

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MISSED = {
    "33b, 1×512, off, r = 64": "one of its two timed steps records the blocks; the case times six since",
}
"""Times that are no step's, by label; a row that fits after all fails, so that it is taken out of here."""
_FIRST = "measured while a first step held what building cuDNN's plans left; mended since, not measured again"
HELD_MORE = {
    "8b, 2×2048, offload": _FIRST,
    "8b, 1×8192, offload_attention": _FIRST,
}
"""Peaks that are no step's, by label; as above."""
H200 = torch.device("cuda")
"""Only named: the plan's card needn't be there."""


def rows_of(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options, rows) of Quatrain's entry in a result file."""
    result = json.loads((RESULTS / f"{case}.json").read_text(encoding="utf-8"))
    return result["options"], result["contenders"]["quatrain"]["rows"]


def planned_trials() -> list[Any]:
    """(trial, measured row) of the case that measures plans."""
    options, rows = rows_of("plan_accuracy")
    trials = [Trial(**trial) for trial in options["trials"]]
    return [pytest.param(trial, rows[trial.label], id=trial.label) for trial in trials]


def training_trials() -> list[Any]:
    """The same of the cases that measure steps, none of which a constant was set from."""
    found = []
    for path in sorted(RESULTS.glob("train_*.json")):
        options, rows = rows_of(path.stem)
        known = {name: options[name] for name in ("model", "samples", "length", "keep", "r")}
        found.append(pytest.param(Trial(**known), rows["step"], id=path.stem))
    return found


@pytest.mark.parametrize("trial, row", planned_trials())
def test_peaks_are_within_the_bounds(trial, row, request):
    """3 % or 150 MB above, whichever is larger, and never more than 1 % below."""
    if reason := HELD_MORE.get(trial.label):
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    peak, _ = predicted(trial, H200)
    measured = row["allocated_gib"] * 2**30
    assert 0.99 * measured <= peak <= measured + max(0.03 * measured, 150e6)


@pytest.mark.parametrize("trial, row", planned_trials() + training_trials())
def test_times_are_within_15_percent(trial, row, request):
    if reason := MISSED.get(trial.label):
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    _, milliseconds = predicted(trial, H200)
    assert milliseconds == pytest.approx(row["ms"]["median"], rel=0.15)
