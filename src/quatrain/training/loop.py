"""`train`: a run is put together, resumed where it stopped if that is asked for, and let go.

Everything that a person sees is read from the events that it writes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from quatrain.models import model_summary
from quatrain.runlog import (
    EventWriter,
    Noted,
    RunFolder,
    RunStarted,
    Sink,
    TensorBoardSink,
    read_events,
    truncate_after,
)
from quatrain.runlog.owner import Owner
from quatrain.training.announce import data_read, described_base, run_started
from quatrain.training.build import build
from quatrain.training.checkpoint import Found, find_checkpoint
from quatrain.training.config import RunConfig
from quatrain.training.config_file import write_config
from quatrain.training.determinism import deterministic
from quatrain.training.interrupt import StopRequest
from quatrain.training.measure import Measured, Measurements, measured
from quatrain.training.plan_events import planned
from quatrain.training.planning import plan_contract
from quatrain.training.progress import ProgressDisplay
from quatrain.training.resume import Differences, changes_since, moved
from quatrain.training.run import Run, Status
from quatrain.training.saving import Saver
from quatrain.training.state import Progress


@dataclass(frozen=True)
class RunResult:
    """A run that ended in an orderly way."""

    folder: RunFolder
    step: int
    status: Status


def train(
    model: nn.Module | None,
    tokenizer: Any,
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    sinks: Iterable[Sink] = (),
) -> RunResult:
    """Fine-tune an adapter on a frozen base, as `config` says, and leave a run folder behind.

    Args:
        model: a model from `load_model`, with or without an adapter. None: loaded from `config.model`.
        tokenizer: its tokenizer.
        config: what to do.
        resume: go on from the newest checkpoint in `config.output_dir` that is whole, exactly where it stopped.
        overwrite: replace a run that is already there.
        progress: show bars and lines while it works.
        sinks: called with every event, for trackers of your own.

    Raises:
        QuatrainError: a typed error that says rule, value and remedy.
    """
    if model is not None:
        config = described_base(config, model)
    folder = RunFolder(Path(config.output_dir))
    with folder.lock() as dead, ProgressDisplay(enabled=progress) as display, deterministic(config.full_determinism):
        folder.check(resume=resume, overwrite=overwrite)
        config, plan = plan_contract(config, model, folder.config if resume else None)
        changes = changes_since(folder.config, config) if resume else Differences()
        found = find_checkpoint(folder) if resume else None
        if plan is not None:
            display.say(f"plan: {plan.in_one_line}")
        setup = build(config, model, tokenizer, display.work, plan, checkpoint=found and found.path)
        if model is None:
            display.say(str(model_summary(setup.model)))
        at = found.restore(setup) if found else Progress()
        # Only now, when all that could be wrong with the new run was looked at, may an old one go.
        folder.create(resume=resume, overwrite=overwrite)
        if resume:
            truncate_after(folder.events, at.step)
        earlier, done = _earlier(folder) if resume else (None, set())
        write_config(config, folder.config)
        display.show(setup.data.summary)
        with (
            TensorBoardSink(folder.tensorboard, at.step if resume else None) as board,
            EventWriter(folder.events, [display.event, board, *sinks]) as writer,
            StopRequest(display.say) as stop,
        ):
            started = run_started(setup, at.step)
            writer.write(started)
            if setup.plan is not None:
                writer.write(planned(setup.plan))
            for data_set in data_read(setup):
                writer.write(data_set)
            for note in _notes_on_the_start(dead, found, changes, earlier, started):
                writer.write(note)
            measure = Measurements(setup, writer, display, stop, done)
            saver = Saver(setup, folder, writer, saved_at=at.step if resume else None)
            run = Run(setup, folder, writer, measure, stop, saver, at)
            status = run.go()
            return RunResult(folder, run.at.step, status)


def _earlier(folder: RunFolder) -> tuple[RunStarted | None, Measured]:
    """How the run was started last, and what was measured since it began. Its other events aren't kept in memory."""
    events = read_events(folder.events)
    starts = [event for event in events if isinstance(event, RunStarted)]
    return (starts[-1] if starts else None), measured(events)


def _notes_on_the_start(
    dead: Owner | None, found: Found | None, changes: Differences, earlier: RunStarted | None, started: RunStarted
) -> Iterator[Noted]:
    """What is to be known of where the run begins."""
    if dead:
        yield Noted(message=f"took the folder over from {dead}, which ended without giving it back")
    for damage in found.skipped if found else ():
        yield Noted(level="warning", message=f"{damage}. Resumed after step {started.start_step} instead")
    for change in changes.noted:
        yield Noted(message=f"resumed with other settings: {change}")
    if changes.harmless:
        yield Noted(
            message=f"resumed with other settings that change nothing of the result: {'; '.join(changes.harmless)}"
        )
    if earlier and (change := moved(earlier, started)):
        yield Noted(message=f"resumed elsewhere: {change}")
