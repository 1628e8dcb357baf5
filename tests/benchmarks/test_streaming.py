"""The cases of models larger than the card, on a tiny one."""

from pathlib import Path

import pytest
import torch

from benchmarks.case import Setting
from benchmarks.measurements import streaming
from benchmarks.measurements.streaming import RESIDENT, TINY, Tiers, Trial, Trials, measure

CPU = torch.device("cpu")


def setting(folder: Path) -> Setting:
    return Setting(device=CPU, models=folder, started=0.0)


def test_rows_of_one_case_share_a_model(tmp_path):
    rows = measure("tiny", Tiers(disk=1), TINY, setting(tmp_path))
    assert list(rows) == [RESIDENT, "capped", "another rank"]
    assert all(row.tokens == 64 and len(row.samples_ms) == 2 for row in rows.values())
    assert rows["capped"].values["speed_percent"] > 0 and "speed_percent" not in rows[RESIDENT].values


def test_of_several_lengths_the_first_that_fits_is_measured(tmp_path, monkeypatch):
    runner = Trials("tiny", Tiers(), CPU, tmp_path)
    measured = runner._measured

    def small(trial, length, *rest):
        if length > 100:
            raise torch.OutOfMemoryError("too long")
        return measured(trial, length, *rest)

    monkeypatch.setattr(runner, "_measured", small)
    row = runner.run(Trial(label="", lengths=(256, 128, 64), r=4), setting(tmp_path))
    assert row.values["context_tokens"] == 64
    with pytest.raises(torch.OutOfMemoryError):
        runner.run(Trial(label="", lengths=(256, 128), r=4), setting(tmp_path))


def test_every_target_is_of_a_row():
    for model, tiers, trials, targets in streaming.LARGE.values():
        assert targets.keys() <= {trial.label for trial in trials}
        blocks = streaming.SHAPES[model].blocks
        assert tiers.device + tiers.disk <= blocks
        assert all((trial.resident or 0) <= blocks - tiers.device for trial in trials)
