"""Training: losses and gradients that aren't finite, runs in one folder, what goes wrong while it goes on."""

import math
from dataclasses import replace

from quatrain.errors import CheckpointError, QuatrainError
from quatrain.models.objective import Objective
from quatrain.runlog import Noted, RunFolder, read_events
from quatrain.runlog.owner import this_process, to_json
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place


def said(at: Place) -> list[str]:
    return [e.message for e in read_events(RunFolder(at.path / "out").events) if isinstance(e, Noted)]


def without_finite_losses(at: Place, *, up_to: float) -> None:
    """The first so many micro-batches have none."""
    accumulate, calls = Objective.accumulate, []

    def spoiled(self, batch):
        calls.append(batch)
        return accumulate(self, batch) * (math.nan if len(calls) <= up_to else 1.0)

    at.patch.setattr(Objective, "accumulate", spoiled)


@fault(
    "five steps in a row without a finite loss",
    QuatrainError,
    "5 steps in a row had no finite gradient",
    leaves=("out", "out/*", "good.jsonl"),
)
def _(at: Place) -> Call:
    without_finite_losses(at, up_to=math.inf)
    return at.train(max_steps=9)


@recovers("a step without a finite loss", "it isn't taken, and its rows are in `suspects.jsonl`")
def _(at: Place) -> Call:
    without_finite_losses(at, up_to=1)
    go = at.train(max_steps=3)

    def call() -> None:
        go()
        assert any("step 1 isn't taken" in words for words in said(at))
        assert (at.path / "out/suspects.jsonl").stat().st_size

    return call


@recovers("a tracker that fails", "the run goes on and says so once")
def _(at: Place) -> Call:
    at.file("out/tensorboard", "in the way")
    go = at.train(max_steps=3)

    def call() -> None:
        go()
        assert len([words for words in said(at) if "the tracker TensorBoardSink failed" in words]) == 1

    return call


@fault("a folder in which another run goes on", CheckpointError, "one run at a time may write to", leaves=("run",))
def _(at: Place) -> Call:
    run = at.run()
    (run / "run.lock").write_bytes(to_json(this_process()))
    return at.train("--overwrite", output_dir=run)


@recovers("the lock of a run that died", "it is taken over, and the log says so")
def _(at: Place) -> Call:
    at.file("out/run.lock", to_json(replace(this_process(), birth="before")))
    go = at.train()

    def call() -> None:
        go()
        assert any("took the folder over from" in words for words in said(at))

    return call
