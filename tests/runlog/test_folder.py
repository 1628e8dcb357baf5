"""A run folder never loses a run, or a stranger's file, by accident."""

import pytest

from quatrain.errors import CheckpointError
from quatrain.runlog import RunFolder


def test_everything_lies_inside_and_making_the_object_touches_no_disk(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "first")
    for path in (folder.config, folder.events, folder.adapter, folder.tensorboard, folder.report, folder.checkpoint(3)):
        assert path.is_relative_to(folder.path)
    assert not folder.path.exists() and not folder.holds_run
    folder.create()
    assert folder.path.is_dir()


def test_checkpoints_are_found_by_step(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.checkpoint_steps() == []
    for step in (200, 1_000_000, 3):
        folder.checkpoint(step).mkdir(parents=True)
    (folder.checkpoints / "step-000009.new").mkdir()
    (folder.checkpoints / "notes.txt").touch()
    assert folder.checkpoint_steps() == [3, 200, 1_000_000]
    assert folder.checkpoint(200).name < folder.checkpoint(1000).name


@pytest.mark.parametrize("remains", ["config", "events", "adapter", "checkpoints"])
def test_a_folder_with_a_run_is_refused_unless_asked(tmp_path, remains):
    folder = RunFolder(tmp_path)
    getattr(folder, remains).touch()
    with pytest.raises(CheckpointError, match="already holds a run"):
        folder.create()
    folder.create(resume=True)
    assert getattr(folder, remains).exists()


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    folder, outside = RunFolder(tmp_path / "run"), tmp_path / "precious"
    outside.mkdir()
    (outside / "weights").touch()
    folder.create()
    folder.events.touch()
    folder.checkpoint(1).mkdir(parents=True)
    folder.adapter.symlink_to(outside)
    (folder.path / "train.jsonl").touch()
    folder.create(overwrite=True)
    assert [p.name for p in folder.path.iterdir()] == ["train.jsonl"]
    assert (outside / "weights").exists()


def test_nothing_to_resume_and_no_place_to_write_are_said_plainly(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        RunFolder(tmp_path).create(resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="choose another"):
        RunFolder(tmp_path / "file" / "run").create()
