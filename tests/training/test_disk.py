"""Runs on a disk that fails, or whose folder somebody removes: they go on, say so, and leave everything behind."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from quatrain.errors import CheckpointError
from quatrain.models.objective import Objective
from quatrain.runlog import Noted, RunFolder, StepDone, read_events
from quatrain.training import run, saving, train
from quatrain.training.checkpoint import REQUIRED
from quatrain.training.config_file import write_config
from quatrain.training.seal import flaw


def warnings_of(folder: RunFolder) -> list[str]:
    return [e.message for e in read_events(folder.events) if isinstance(e, Noted) and e.level == "warning"]


def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_whose_folder_was_removed_makes_it_again(config_for):
    config = config_for(max_steps=4, save_steps=3, eval_data=None)
    folder = RunFolder(Path(config.output_dir))

    def remove(event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            shutil.rmtree(folder.path)

    assert train(None, None, config, progress=False, sinks=[remove]).status == "completed"
    assert [e.step for e in read_events(folder.events) if isinstance(e, StepDone)] == [1, 2, 3, 4]
    assert folder.report.exists() and folder.adapter.exists()
    assert [flaw(folder.checkpoint(step), REQUIRED) for step in folder.checkpoint_steps()] == [None, None]
    more = config_for(max_steps=5, eval_data=None)
    assert train(None, None, more, progress=False, resume=True).step == 5


def test_a_tracker_that_fails_doesnt_stop_a_run(config_for):
    def broken(event) -> None:
        raise RuntimeError("the server is down")

    folder = RunFolder(Path(config_for().output_dir))
    folder.path.mkdir()
    folder.tensorboard.write_text("in the way")
    result = train(None, None, config_for(max_steps=3, eval_data=None), progress=False, sinks=[broken])
    assert result.status == "completed"
    said = warnings_of(folder)
    assert len(said) == 2 and any("RuntimeError: the server is down" in words for words in said)
    assert any("TensorBoardSink failed" in words for words in said)


def test_too_little_room_for_checkpoints_is_said_at_the_start(config_for, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    folder = train(None, None, config_for(max_steps=1, eval_data=None), progress=False).folder
    (said,) = warnings_of(folder)
    assert "checkpoints will need" in said and "lower `save_total_limit`" in said


def test_a_report_that_cant_be_written_is_said(config_for, monkeypatch):
    monkeypatch.setattr(run, "write_report", full)
    result = train(None, None, config_for(max_steps=1, eval_data=None), progress=False)
    assert result.status == "completed"
    assert "`quatrain report` makes it from the events" in warnings_of(result.folder)[0]


def test_suspects_that_cant_be_written_are_said(config_for, monkeypatch):
    accumulate, folder = Objective.accumulate, RunFolder(Path(config_for().output_dir))

    def spoil(self, batch):
        folder.suspects.mkdir(exist_ok=True)
        return accumulate(self, batch) * (float("nan") if 0 in batch.samples else 1.0)

    monkeypatch.setattr(Objective, "accumulate", spoil)
    train(None, None, config_for(eval_data=None, num_train_epochs=1.0), progress=False)
    (said,) = warnings_of(folder)
    assert "rows can't be written down" in said


def test_a_config_that_cant_be_written_leaves_the_one_of_before(config_for, monkeypatch):
    config = config_for(max_steps=2, eval_data=None)
    before = train(None, None, config, progress=False).folder.config.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"config\.yaml can't be written"):
        write_config(config_for(max_steps=9), Path(config.output_dir) / "config.yaml")
    assert (Path(config.output_dir) / "config.yaml").read_bytes() == before
