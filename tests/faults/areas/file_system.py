"""The disk: full, read-only, gone, or not what it seems."""

import errno
import os
import shutil
from pathlib import Path

from quatrain.errors import CheckpointError
from quatrain.files import Files
from quatrain.runlog import CheckpointSaved, Noted, RunFolder, read_events
from quatrain.training import run, saving
from tests.faults.areas.training import said
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place


class FullFor(Files):
    """No room for folders of these names."""

    def __init__(self, *names: str):
        self.names = names

    def make_folder(self, path: Path) -> None:
        if path.name in self.names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().make_folder(path)


@fault("an output_dir below a file", CheckpointError, "can't be written")
def _(at: Place) -> Call:
    return at.train(output_dir=at.file("file", "") / "run", data=at.rows())


@fault(
    "a disk that is full when the last checkpoint is saved",
    CheckpointError,
    "Older checkpoints are untouched; free space on that disk",
    leaves=("out", "out/*", "good.jsonl"),
)
def _(at: Place) -> Call:
    at.patch.setattr(saving, "Files", lambda: FullFor(".step-000001.writing"))
    return at.train()


@fault(
    "a disk that is full when the adapter is handed over",
    CheckpointError,
    "The last checkpoint holds it: free space on that disk",
    leaves=("out", "out/*", "good.jsonl"),
)
def _(at: Place) -> Call:
    at.patch.setattr(saving, "Files", lambda: FullFor(".adapter.writing"))
    return at.train()


@recovers("a disk that is full for a while", "training goes on without that checkpoint and saves at the next")
def _(at: Place) -> Call:
    at.patch.setattr(saving, "Files", lambda: FullFor(".step-000001.writing"))
    go = at.train(max_steps=2, save_steps=1)

    def call() -> None:
        go()
        events = read_events(RunFolder(at.path / "out").events)
        assert [e.step for e in events if isinstance(e, CheckpointSaved)] == [2]
        assert any("the next save tries again" in e.message for e in events if isinstance(e, Noted))

    return call


@recovers("a run folder that somebody removes while it trains", "it is made again, with all that was in it")
def _(at: Place) -> Call:
    note = run.Run._note_step

    def removing(self, result, seconds):
        if self.at.step == 2:
            shutil.rmtree(self.folder.path)
        note(self, result, seconds)

    at.patch.setattr(run.Run, "_note_step", removing)
    go = at.train(max_steps=3, save_steps=3)

    def call() -> None:
        go()
        folder = RunFolder(at.path / "out")
        assert folder.config.exists() and folder.adapter.exists() and folder.checkpoint_steps() == [3]

    return call


@recovers("too little room for checkpoints", "the run says so when it begins")
def _(at: Place) -> Call:
    usage = shutil.disk_usage(at.path)
    at.patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1))
    go = at.train()

    def call() -> None:
        go()
        assert any("checkpoints will need" in words for words in said(at))

    return call


@recovers("a report that can't be written", "the run is a success all the same, and says so")
def _(at: Place) -> Call:
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at.patch.setattr(run, "write_report", full)
    go = at.train()

    def call() -> None:
        go()
        assert any("the report can't be written" in words for words in said(at))

    return call
