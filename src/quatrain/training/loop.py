"""The training loop: steps, evaluations, checkpoints, events. Everything that a person sees is read from the events."""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from quatrain import device as hardware
from quatrain.adapters import adapter_parameters, save_adapter
from quatrain.errors import CheckpointError, QuatrainError
from quatrain.models import model_summary
from quatrain.report import write_report
from quatrain.runlog import (
    CheckpointSaved,
    EventWriter,
    Noted,
    RunFinished,
    RunFolder,
    Sink,
    StepDone,
    TensorBoardSink,
    truncate_after,
)
from quatrain.training.announce import data_read, described_base, run_started
from quatrain.training.build import Setup, build
from quatrain.training.checkpoint import find_checkpoint, save_checkpoint
from quatrain.training.checkpoints_kept import remove_old_checkpoints
from quatrain.training.config import RunConfig
from quatrain.training.config_file import write_config
from quatrain.training.economy import Economy
from quatrain.training.interrupt import Interrupted, StopRequest
from quatrain.training.measure import Measurements
from quatrain.training.progress import ProgressDisplay
from quatrain.training.resume import changes_since
from quatrain.training.state import Progress
from quatrain.training.step import StepResult, train_step

_MOST_FAILED_STEPS = 5
# Without `eval_steps` and `save_steps`, the ends of about this many epochs evaluate and save.
_MOST_EPOCHS_THAT_COUNT = 20


@dataclass(frozen=True)
class RunResult:
    """A run that ended in an orderly way."""

    folder: RunFolder
    step: int
    status: Literal["completed", "interrupted", "failed"]


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
    with folder.lock() as dead, ProgressDisplay(enabled=progress) as display:
        folder.check(resume=resume, overwrite=overwrite)
        changes = changes_since(folder.config, config) if resume else []
        found = find_checkpoint(folder) if resume else None
        setup = build(config, model, tokenizer, display.work, checkpoint=found and found.path)
        if model is None:
            display.say(str(model_summary(setup.model)))
        at = found.restore(setup) if found else Progress()
        # Only now, when all that could be wrong with the new run was looked at, may an old one go.
        folder.create(resume=resume, overwrite=overwrite)
        if resume:
            truncate_after(folder.events, at.step)
        write_config(config, folder.config)
        display.show(setup.data.summary)
        with (
            TensorBoardSink(folder.tensorboard, at.step if resume else None) as board,
            EventWriter(folder.events, [display.event, board, *sinks]) as writer,
            StopRequest(display.say) as stop,
        ):
            writer.write(run_started(setup, at.step))
            for data_set in data_read(setup):
                writer.write(data_set)
            if dead:
                writer.write(Noted(message=f"took the folder over from {dead}, which ended without giving it back"))
            for damage in found.skipped if found else ():
                writer.write(Noted(level="warning", message=f"{damage}. Resumed after step {at.step} instead"))
            for change in changes:
                writer.write(Noted(message=f"resumed with other settings: {change}"))
            measure = Measurements(setup, writer, display, stop)
            return _Run(setup, folder, writer, measure, stop, at, saved_at=at.step if resume else None).go()


class _Run:
    """The state of one call of `train`; `go` runs it to its end."""

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        writer: EventWriter,
        measure: Measurements,
        stop: StopRequest,
        at: Progress,
        saved_at: int | None,
    ):
        self.setup, self.config, self.folder = setup, setup.config, folder
        self.writer, self.measure, self.stop = writer, measure, stop
        self.at = at
        self.parameters = list(adapter_parameters(setup.model).values())
        self.economy = Economy(setup.objective, setup.optimizer, self._warn, setup.plan and setup.plan.peak)
        self.failed_in_a_row = 0
        self.notes_written = 0
        self.unlogged: list[tuple[StepResult, float]] = []
        self.saved_at = saved_at
        self.last_due = at.step
        self.began, self.tokens_at_start = time.perf_counter(), at.tokens

    def go(self) -> RunResult:
        hardware.reset_peak(self.setup.device)
        status: Literal["completed", "interrupted", "failed"] = "failed"
        try:
            status = self._work()
        except Exception as error:
            self.writer.write(Noted(level="error", message=str(error)))
            raise
        finally:
            self.setup.model.eval()
            self._close(status)
        return RunResult(self.folder, self.at.step, status)

    def _work(self) -> Literal["completed", "interrupted"]:
        try:
            self._write_notes()
            if self.at.step == 0:
                self.measure.task(0, "before")
                self.measure.held_out_loss(0)
            self._train()
            self._save(last=True)
            if self.at.step < self.setup.total_steps:
                return "interrupted"
            self._hand_over()
            self.measure.held_out_loss(self.at.step)
            self.measure.task(self.at.step, "after")
        except Interrupted:
            self._save(last=True)
            return "interrupted"
        return "completed"

    def _train(self) -> None:
        setup, config = self.setup, self.config
        batches = iter(setup.loader)
        while self.at.step < setup.total_steps and not self.stop.asked:
            began, epoch_before = time.perf_counter(), int(setup.epochs_done)
            step = self.at.step + 1
            for group in setup.optimizer.param_groups:
                group["lr"] = setup.learning_rate(step) * group["lr_ratio"]
            setup.model.train()
            result = train_step(
                setup.objective,
                self.parameters,
                setup.optimizer,
                [next(batches) for _ in range(setup.micro_batches_of(step))],
                max_grad_norm=config.max_grad_norm,
                economy=self.economy,
            )
            self._write_notes()
            self.at = Progress(step=step, tokens=self.at.tokens + result.tokens)
            self._note_step(result, time.perf_counter() - began)
            epoch_ended = self._epoch_counts(int(setup.epochs_done) > epoch_before)
            if _due(step, config.eval_steps, epoch_ended):
                self.measure.held_out_loss(step)
            if _due(step, config.save_steps, epoch_ended):
                self._save(last=False)

    def _epoch_counts(self, ended: bool) -> bool:
        """Whether an epoch ended, and not too soon after the last one: a few rows make an epoch a step long."""
        if not ended or (self.at.step - self.last_due) * _MOST_EPOCHS_THAT_COUNT < self.setup.total_steps:
            return False
        self.last_due = self.at.step
        return True

    def _write_notes(self) -> None:
        """What the objective has decided since the last time."""
        for note in self.setup.objective.notes[self.notes_written :]:
            self.writer.write(Noted(message=note))
        self.notes_written = len(self.setup.objective.notes)

    def _note_step(self, result: StepResult, seconds: float) -> None:
        step = self.at.step
        self.failed_in_a_row = 0 if result.taken else self.failed_in_a_row + 1
        if not result.taken:
            self.writer.write(Noted(level="warning", message=f"step {step} isn't taken: {_describe(result)}"))
        if self.failed_in_a_row >= _MOST_FAILED_STEPS:
            raise QuatrainError(
                f"{_MOST_FAILED_STEPS} steps in a row had no finite gradient ({_describe(result)}). "
                "Lower `learning_rate`; checkpoints from before are good"
            )
        self.unlogged.append((result, seconds))
        if step % self.config.logging_steps == 0 or step == self.setup.total_steps:
            self.writer.write(self._step_done())
            self.unlogged.clear()

    def _step_done(self) -> StepDone:
        """The steps since the last event as one."""
        results, memory = [result for result, _ in self.unlogged], hardware.memory_in_use(self.setup.device)
        supervised = sum(r.supervised_tokens for r in results)
        return StepDone(
            step=self.at.step,
            loss=sum(r.loss * r.supervised_tokens for r in results) / supervised,
            learning_rate=self.setup.optimizer.param_groups[0]["lr"],
            grad_norm=results[-1].grad_norm,
            tokens=sum(r.tokens for r in results),
            supervised_tokens=supervised,
            seconds=sum(seconds for _, seconds in self.unlogged),
            memory=memory.current,
            peak_memory=memory.peak,
            epoch=self.setup.epochs_done,
        )

    def _save(self, *, last: bool) -> None:
        """Save a checkpoint, if this step has none, and let old ones go: a run that was killed may have left some."""
        if self.saved_at != self.at.step and not self._saved(last=last):
            return
        try:
            remove_old_checkpoints(self.folder, self.at.step, keep=self.config.save_total_limit)
        except CheckpointError as error:
            self._warn(str(error))

    def _saved(self, *, last: bool) -> bool:
        """Whether a checkpoint was written. One that fails is tried again when the next is due; the `last` has no next.

        Raises:
            CheckpointError: the last one can't be written.
        """
        began = time.perf_counter()
        try:
            path = save_checkpoint(self.folder, self.setup, self.at)
        except CheckpointError as error:
            if last:
                raise
            self._warn(f"{error}. Training goes on; the next save tries again")
            return False
        self.saved_at = self.at.step
        self.writer.write(
            CheckpointSaved(
                step=self.at.step,
                path=str(path.relative_to(self.folder.path)),
                size=sum(f.stat().st_size for f in path.iterdir()),
                seconds=time.perf_counter() - began,
            )
        )
        return True

    def _warn(self, message: str) -> None:
        self.writer.write(Noted(level="warning", message=message))

    def _hand_over(self) -> None:
        """Write the adapter that the run was for."""
        shutil.rmtree(self.folder.adapter, ignore_errors=True)
        save_adapter(
            self.setup.model,
            self.folder.adapter,
            base_model_name_or_path=self.config.model,
            provenance=self.setup.provenance,
        )
        if self.config.new_tokens:
            self.setup.tokenizer.save_pretrained(self.folder.adapter)

    def _close(self, status: Literal["completed", "interrupted", "failed"]) -> None:
        self.writer.write(
            RunFinished(
                step=self.at.step,
                status=status,
                seconds=time.perf_counter() - self.began,
                tokens=self.at.tokens - self.tokens_at_start,
                peak_memory=hardware.memory_in_use(self.setup.device).peak,
            )
        )
        write_report(self.folder)


def _due(step: int, every: int | None, epoch_ended: bool) -> bool:
    return epoch_ended if every is None else step % every == 0


def _describe(result: StepResult) -> str:
    return f"loss {result.loss}, gradient norm {result.grad_norm}"
