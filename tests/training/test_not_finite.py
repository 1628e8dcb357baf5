"""Steps without a finite loss or gradient: not taken, their rows written down, and too many of them end the run."""

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file

from quatrain.adapters import adapter_parameters
from quatrain.errors import QuatrainError
from quatrain.models import load_model
from quatrain.models.objective import Objective
from quatrain.runlog import Noted, RunFolder, StepDone, read_events
from quatrain.training import train
from tests.training.same import assert_same

ROW = 5
"""The sample that spoils a step."""


@pytest.fixture(params=["loss", "gradient"])
def spoiled(request, monkeypatch):
    """A row's loss isn't a number, or its gradient is infinite."""
    accumulate = Objective.accumulate

    def spoil(self, batch):
        loss = accumulate(self, batch)
        if ROW not in batch.samples:
            return loss
        if request.param == "loss":
            return loss * math.nan
        gradient = next(iter(adapter_parameters(self.model).values())).grad
        assert gradient is not None
        gradient.fill_(math.inf)
        return loss

    monkeypatch.setattr(Objective, "accumulate", spoil)
    return request.param


def warnings_of(folder: RunFolder) -> list[str]:
    return [e.message for e in read_events(folder.events) if isinstance(e, Noted) and e.level == "warning"]


def test_the_step_isnt_taken_and_its_rows_are_written_down(config_for, spoiled):
    config = config_for(packing=False, per_device_train_batch_size=3, num_train_epochs=2.0, eval_data=None)
    result = train(None, None, config, progress=False)
    assert result.status == "completed"
    folder = result.folder
    bad = [
        e.step
        for e in read_events(folder.events)
        if isinstance(e, StepDone) and not math.isfinite(e.grad_norm + e.loss)
    ]
    assert len(bad) == 2
    said = warnings_of(folder)
    assert len(said) == 2 and said[0].startswith(f"step {bad[0]} isn't taken: loss ")
    assert all(str(folder.suspects) in words for words in said)
    rows = [json.loads(line) for line in folder.suspects.read_text().splitlines()]
    assert {row["step"] for row in rows} <= set(bad)
    by_number = {row["sample"]: row["text"] for row in rows}
    assert "3 + 4?" in by_number[ROW]
    # A loss tells the micro-batch; a gradient is the whole step's.
    assert len({row["sample"] for row in rows if row["step"] == bad[0]}) == (3 if spoiled == "loss" else 6)
    assert all(tensor.isfinite().all() for tensor in load_file(folder.adapter / "adapter_model.safetensors").values())


def test_too_many_in_a_row_end_the_run_with_the_adapter_of_before(config_for, monkeypatch):
    accumulate, calls = Objective.accumulate, 0

    def fail_from_the_seventh(self, batch):
        nonlocal calls
        calls += 1
        return accumulate(self, batch) * (math.nan if calls > 6 else 1.0)

    config = config_for(max_steps=20, save_steps=2, save_total_limit=1, eval_data=None, gradient_accumulation_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "accumulate", fail_from_the_seventh)
        with pytest.raises(QuatrainError, match=r"5 steps in a row .*suspects\.jsonl"):
            train(None, None, config, progress=False)
    folder = RunFolder(Path(config.output_dir))
    # While steps fail no older checkpoint goes, and the last one holds what the good steps have made.
    assert folder.checkpoint_steps() == [6, 8, 10, 11]
    weights = [(folder.checkpoint(step) / "adapter_model.safetensors").read_bytes() for step in (6, 11)]
    assert weights[0] == weights[1]
    assert train(None, None, config, progress=False, resume=True).status == "completed"


def test_half_a_gradient_of_a_step_that_failed_isnt_in_the_next(config_for, tmp_path, monkeypatch):
    """Who catches an error in a notebook and trains the same model again must not get what was left of it."""
    accumulate, calls = Objective.accumulate, 0

    def fail_at_the_second(self, batch):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of luck")
        return accumulate(self, batch)

    def fresh():
        return load_model(config.model, compute_dtype="float32", device="cpu")

    config = config_for(max_steps=2, eval_data=None)
    model, tokenizer = fresh()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of luck"):
        patch.setattr(Objective, "accumulate", fail_at_the_second)
        train(model, tokenizer, config, progress=False)
    again = train(model, tokenizer, config, progress=False, overwrite=True).folder
    other = config_for(max_steps=2, eval_data=None, output_dir=str(tmp_path / "other"))
    assert_same(again, train(*fresh(), other, progress=False).folder)
