"""Checkpoints are sealed: a save that fails costs nothing, damage is named, and the newest whole one is used."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quatrain.adapters import adapter_parameters
from quatrain.adapters.trained import load_trained
from quatrain.errors import CheckpointError
from quatrain.files import Files
from quatrain.runlog import CheckpointSaved, Noted, RunFinished, RunFolder, StepDone, read_events
from quatrain.training import RunConfig, saving, train
from quatrain.training.build import Setup, build
from quatrain.training.checkpoint import REQUIRED, find_checkpoint, save_checkpoint
from quatrain.training.checkpoints_kept import remove_old_checkpoints
from quatrain.training.seal import MANIFEST, flaw
from quatrain.training.state import Progress
from tests.training.conftest import change
from tests.training.faults import FaultyFiles, fail


@pytest.fixture
def setup(config_for) -> Setup:
    return build(config_for(max_steps=9, eval_data=None))


def saved(folder: RunFolder, setup: Setup, *steps: int) -> None:
    for step in steps:
        change(setup)
        save_checkpoint(folder, setup, Progress(step=step, tokens=10 * step))


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_the_manifest_is_written_last_and_everything_is_synced_before_the_rename(folder, setup):
    files = FaultyFiles(fail)
    path = save_checkpoint(folder, setup, Progress(step=3), files=files)
    names = {p.name for p in path.iterdir()}
    assert names == {*REQUIRED, "README.md", MANIFEST}
    manifest = files.points.index(f"before writing {MANIFEST}")
    rename = files.points.index("before .step-000003.writing becomes step-000003")
    for name in names - {MANIFEST}:
        assert files.points.index(f"before syncing {name}") < manifest
    assert manifest < files.points.index(f"before syncing {MANIFEST}") < rename
    assert files.points[rename - 1 :] == [
        "before syncing .step-000003.writing",
        "before .step-000003.writing becomes step-000003",
        "before syncing checkpoints",
    ]
    entries = json.loads((path / MANIFEST).read_text())["files"]
    assert {name: entry["size"] for name, entry in entries.items()} == {
        name: (path / name).stat().st_size for name in names - {MANIFEST}
    }


def test_a_save_that_fails_at_any_point_leaves_the_older_ones_and_nothing_else(folder, setup):
    saved(folder, setup, 2)
    before = content(folder.checkpoints)

    def save(files: FaultyFiles) -> None:
        remains = folder.checkpoints / ".step-000001.writing"
        remains.mkdir(exist_ok=True)
        (remains / "rest").touch()
        save_checkpoint(folder, setup, Progress(step=4), files=files)

    rehearsal = FaultyFiles(fail)
    save(rehearsal)
    assert len(rehearsal.points) > 20
    for point in range(len(rehearsal.points)):
        shutil.rmtree(folder.checkpoint(4), ignore_errors=True)
        try:
            save(FaultyFiles(fail, [point]))
        except CheckpointError as error:
            assert "No space left" in str(error) and "free space" in str(error)
            renamed = folder.checkpoint(4)
            left = content(folder.checkpoints)
            assert {name: left[name] for name in before} == before
            assert not renamed.exists() or flaw(renamed, REQUIRED) is None
        shutil.rmtree(folder.checkpoint(4), ignore_errors=True)
        assert find_checkpoint(folder).state.progress.step == 2
    save_checkpoint(folder, setup, Progress(step=4))
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["step-000002", "step-000004"]


def test_a_folder_that_cant_be_written_is_an_error_with_a_remedy(folder, setup):
    folder.path.mkdir()
    folder.checkpoints.touch()
    with pytest.raises(CheckpointError, match=r"can't be written .*make the folder writable"):
        save_checkpoint(folder, setup, Progress(step=1))


class WornDisk(Files):
    """Changes one byte of a file when its folder gets its name: nothing that was written through it is as it was."""

    def rename(self, path: Path, to: Path) -> None:
        super().rename(path, to)
        flip(to / "optimizer.safetensors")


def flip(path: Path, place: int | None = None) -> None:
    old = bytearray(path.read_bytes())
    old[len(old) // 2 if place is None else place] ^= 1
    path.write_bytes(old)


def test_what_isnt_on_the_disk_as_written_is_no_checkpoint(folder, setup):
    saved(folder, setup, 2)
    with pytest.raises(CheckpointError, match=r"as it was written: optimizer\.safetensors has another SHA-256"):
        save_checkpoint(folder, setup, Progress(step=4), files=WornDisk())
    assert folder.checkpoint_steps() == [2]


def edited(path: Path, change) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


DAMAGES = {
    "no manifest": (lambda p: (p / MANIFEST).unlink(), "no manifest"),
    "empty manifest": (lambda p: (p / MANIFEST).write_bytes(b""), "manifest.json is unreadable"),
    "manifest not text": (lambda p: (p / MANIFEST).write_bytes(b"\xff\xfe"), "manifest.json is unreadable"),
    "manifest too deep": (lambda p: (p / MANIFEST).write_text("[" * 200_000), "manifest.json is unreadable"),
    "huge manifest": (lambda p: os.truncate(p / MANIFEST, 2**30), "manifest.json is unreadable"),
    "another version": (lambda p: (p / MANIFEST).write_text('{"version": 9}'), "not a manifest of version 1"),
    "no table": (lambda p: (p / MANIFEST).write_text('{"version": 1, "files": [1]}'), "no table of files"),
    "unlisted file": (
        lambda p: edited(p / MANIFEST, lambda t: t["files"].pop("state.json")),
        "doesn't list state.json",
    ),
    "name outside": (lambda p: edited(p / MANIFEST, lambda t: t["files"].update({"../x": {}})), "isn't the name of"),
    "missing": (lambda p: (p / "state.json").unlink(), "state.json is missing"),
    "cut": (lambda p: os.truncate(p / "adapter_model.safetensors", 99), "adapter_model.safetensors has 99 bytes"),
    "grown": (lambda p: (p / "state.json").write_text((p / "state.json").read_text() + " "), "state.json has"),
    "a link": (lambda p: linked(p / "state.json"), "state.json isn't a file"),
    "a folder": (lambda p: (shutil.rmtree(p), p.touch()), "can't be read"),
    "unreadable state": (lambda p: resealed(p, "state.json", b"[]"), "state is unreadable"),
    "another step's state": (lambda p: state_edited(p, lambda t: t.update(step=2)), "state.json is of step 2"),
    "a negative step": (lambda p: state_edited(p, lambda t: t.update(step=-4)), "'step' must be a whole number"),
    "no place in the data": (lambda p: state_edited(p, lambda t: t.pop("data")), "no 'data' of type dict"),
    "another generator": (lambda p: state_edited(p, lambda t: t["random"].update(gpu="AA==")), "'gpu' isn't the state"),
    "a short random state": (
        lambda p: state_edited(p, lambda t: t["random"].update(cpu="AA==")),
        "has 1 bytes",
    ),
    "a huge state": (lambda p: resealed(p, "state.json", b" " * (2**24 + 1)), "has more than"),
    "losses in words": (lambda p: state_edited(p, lambda t: t.update(losses=["low"])), "'losses' must be numbers"),
    "half of a step without its gradient": (
        lambda p: state_edited(p, lambda t: t.update(losses=[1.0])),
        "gradients.safetensors",
    ),
    "unreadable moments": (lambda p: resealed(p, "optimizer.safetensors", b"torn"), "state is unreadable"),
    **{f"worn {name}": (lambda p, n=name: flip(p / n), f"{name} has another SHA-256") for name in REQUIRED},
}


def state_edited(path: Path, change) -> None:
    table = json.loads((path / "state.json").read_text())
    change(table)
    resealed(path, "state.json", json.dumps(table).encode())


def linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def resealed(path: Path, name: str, content: bytes) -> None:
    """As another program might write it: sealed, but not what belongs there."""
    (path / name).write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edited(path / MANIFEST, lambda table: table["files"].update({name: entry}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_skipped(folder, setup, damage):
    spoil, words = DAMAGES[damage]
    saved(folder, setup, 2, 4)
    spoil(folder.checkpoint(4))
    change(setup)
    found = find_checkpoint(folder)
    load_trained(setup.model, found.path)
    assert found.restore(setup) == Progress(step=2, tokens=20)
    (said,) = found.skipped
    assert "step-000004 is damaged" in said and words in said
    adapter = load_file(folder.checkpoint(2) / "adapter_model.safetensors")
    ours = [tensor for name, tensor in sorted(adapter_parameters(setup.model).items())]
    assert all(any(torch.equal(stored, tensor) for tensor in ours) for stored in adapter.values())


def test_every_byte_of_every_file_is_under_the_seal(folder, setup):
    saved(folder, setup, 2)
    path = folder.checkpoint(2)
    for name in REQUIRED:
        whole = (path / name).read_bytes()
        for place in torch.randint(len(whole), (5,)).tolist():
            flip(path / name, place)
            assert flaw(path, REQUIRED) == f"{name} has another SHA-256 than when it was written"
            (path / name).write_bytes(whole)
    assert flaw(path, REQUIRED) is None


def test_without_a_whole_checkpoint_all_are_named(folder, setup):
    saved(folder, setup, 2, 4)
    (folder.checkpoint(2) / MANIFEST).unlink()
    (folder.checkpoint(4) / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-000004 is damaged: state\.json.*step-000002 is damaged: no man"):
        find_checkpoint(folder)


def test_old_ones_go_by_step_and_damaged_ones_take_no_place(folder, setup):
    saved(folder, setup, 9, 2, 4, 6, 8)
    (folder.checkpoint(6) / "state.json").unlink()
    for step, age in ((2, 0), (4, 10**9)):
        os.utime(folder.checkpoint(step), (age, age))
    remove_old_checkpoints(folder, 8, keep=2)
    assert folder.checkpoint_steps() == [4, 6, 8, 9]
    files = FaultyFiles(fail)
    remove_old_checkpoints(folder, 8, keep=1, files=files)
    assert folder.checkpoint_steps() == [8, 9]
    assert [p for p in files.points if "becomes" in p] == [
        "before step-000004 becomes .step-000004.removing",
        "before step-000006 becomes .step-000006.removing",
    ]


def test_an_old_one_that_cant_be_removed_is_said(folder, setup):
    saved(folder, setup, 2, 4)
    with pytest.raises(CheckpointError, match="remove them yourself"):
        remove_old_checkpoints(folder, 4, keep=1, files=FaultyFiles(fail, [0]))
    assert find_checkpoint(folder).state.progress.step == 4


def train_with(config: RunConfig, monkeypatch, files: Files, **options):
    monkeypatch.setattr(saving, "Files", lambda: files)
    return train(None, None, config, progress=False, **options)


def warnings_of(folder: RunFolder) -> list[str]:
    return [e.message for e in read_events(folder.events) if isinstance(e, Noted) and e.level == "warning"]


class FullFor(Files):
    """No room for the checkpoints of some steps."""

    def __init__(self, *steps: int):
        self.names = [f".step-{step:06d}.writing" for step in steps]

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        if path.name in self.names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_training_goes_on_when_a_save_fails_and_saves_at_the_next(config_for, monkeypatch):
    config = config_for(max_steps=4, save_steps=1, save_total_limit=1, eval_data=None)
    seen = []

    def note(event) -> None:
        if isinstance(event, StepDone):
            seen.append(RunFolder(Path(config.output_dir)).checkpoint_steps())

    result = train_with(config, monkeypatch, FullFor(2, 3), sinks=[note])
    assert result.status == "completed"
    assert seen == [[], [1], [1], [1]]
    assert [e.step for e in read_events(result.folder.events) if isinstance(e, CheckpointSaved)] == [1, 4]
    said = warnings_of(result.folder)
    assert len(said) == 2 and all("free space" in words and "Training goes on" in words for words in said)
    assert result.folder.checkpoint_steps() == [4]


def test_a_save_that_fails_at_the_end_ends_the_run_as_failed(config_for, monkeypatch):
    config = config_for(max_steps=3, save_steps=1, eval_data=None)
    with pytest.raises(CheckpointError, match="step-000003 can't be written"):
        train_with(config, monkeypatch, FullFor(3))
    folder = RunFolder(Path(config.output_dir))
    last = read_events(folder.events)[-1]
    assert isinstance(last, RunFinished) and last.status == "failed"
    assert folder.checkpoint_steps() == [1, 2]
    monkeypatch.undo()
    assert train(None, None, config, progress=False, resume=True).status == "completed"


class StuckFiles(Files):
    """What is there stays there."""

    def remove(self, path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_old_ones_that_stay_dont_stop_the_run(config_for, monkeypatch):
    config = config_for(max_steps=2, save_steps=1, save_total_limit=1, eval_data=None)
    result = train_with(config, monkeypatch, StuckFiles())
    assert result.status == "completed"
    said = warnings_of(result.folder)
    assert said and all("can't be removed" in words for words in said)


def test_a_run_resumed_from_an_older_checkpoint_says_so_and_replaces_the_damaged_one(config_for):
    config = config_for(max_steps=4, save_steps=1, save_total_limit=2, eval_data=None)
    folder = train(None, None, config, progress=False).folder
    expected = (folder.adapter / "adapter_model.safetensors").read_bytes()
    flip(folder.checkpoint(4) / "optimizer.safetensors")
    result = train(None, None, config, progress=False, resume=True)
    (said,) = warnings_of(folder)
    assert "step-000004 is damaged" in said and "Resumed after step 3 instead" in said
    assert result.status == "completed" and flaw(folder.checkpoint(4), REQUIRED) is None
    assert (folder.adapter / "adapter_model.safetensors").read_bytes() == expected
