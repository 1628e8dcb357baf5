"""One call of `train` from its first step to its last: steps, evaluations, checkpoints, events."""

import time
from collections import deque
from dataclasses import replace
from itertools import islice
from typing import Literal

from quatrain import device as hardware
from quatrain.adapters import adapter_parameters
from quatrain.errors import CheckpointError, QuatrainError
from quatrain.report import write_report
from quatrain.runlog import EventWriter, Noted, RunFinished, RunFolder, StepDone
from quatrain.training.adapter_watch import AdapterWatch
from quatrain.training.build import Setup
from quatrain.training.economy import Economy
from quatrain.training.interrupt import Interrupted, StopRequest
from quatrain.training.loss_watch import LossWatch
from quatrain.training.measure import Measurements
from quatrain.training.plan_events import checked
from quatrain.training.saving import Saver
from quatrain.training.state import Progress
from quatrain.training.step import Step, StepResult
from quatrain.training.suspects import SuspectRows

Status = Literal["completed", "interrupted", "failed"]

_MOST_FAILED_STEPS = 5
# Without `eval_steps` and `save_steps`, the ends of about this many epochs evaluate and save.
_MOST_EPOCHS_THAT_COUNT = 20
# The first steps compile kernels; a median over so many doesn't see them.
_STEPS_TO_JUDGE_A_PLAN = 100


class Run:
    """The state of one call of `train`; `go` runs it to its end.

    Args:
        at: where it begins.
        saver: puts checkpoints and the adapter on the disk.
    """

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        writer: EventWriter,
        measure: Measurements,
        stop: StopRequest,
        saver: Saver,
        at: Progress,
    ):
        self.setup, self.config, self.folder = setup, setup.config, folder
        self.writer, self.measure, self.stop, self.saver = writer, measure, stop, saver
        self.at = at
        named = adapter_parameters(setup.model)
        self.parameters = list(named.values())
        self.economy = Economy(setup.objective, setup.optimizer, self._warn, setup.plan and setup.plan.peak)
        self.adapter_watch = AdapterWatch(named, at.step + 1, setup.total_steps)
        self.loss_watch = LossWatch()
        self.suspects = SuspectRows(folder, setup)
        self.failed_in_a_row = 0
        self.notes_written = 0
        self.unlogged: list[tuple[StepResult, float]] = []
        self.last_seconds: deque[float] = deque(maxlen=_STEPS_TO_JUDGE_A_PLAN)
        self.seconds_per_micro_batch: float | None = None
        self.began, self.tokens_at_start = time.perf_counter(), at.tokens
        self.peak_before = 0
        """Bytes that were in use at most before training."""

    def go(self) -> Status:
        """Train, and record how it ended."""
        hardware.reset_peak(self.setup.device)
        status: Status = "failed"
        try:
            status = self._work()
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Exception as error:
            self.writer.write(Noted(level="error", message=str(error)))
            raise
        finally:
            self.setup.model.eval()
            self._close(status)
        return status

    def _work(self) -> Status:
        try:
            self._write_notes()
            self.saver.warn_of_little_room()
            if self.at.step == 0:
                self.measure.task(0, "before")
                # Plans are for steps and losses: answers, many at once, may take more.
                self.peak_before = hardware.memory_in_use(self.setup.device).peak
                hardware.reset_peak(self.setup.device)
                self.measure.held_out_loss(0)
            elif _due(self.at.step, self.config.eval_steps, epoch_ended=False):
                # A stop may have come between this step and its measurement.
                self.measure.held_out_loss(self.at.step)
            self._train()
            self._check_plan()
            self._save(last=True)
            if self.at.step < self.setup.total_steps:
                return "interrupted"
            # The card that goes with the adapter says what it came to.
            self.measure.held_out_loss(self.at.step)
            self.saver.hand_over(self.at)
            self.measure.task(self.at.step, "after")
        except Interrupted:
            self._save(last=True)
            return "interrupted"
        return "completed"

    def _check_plan(self) -> None:
        """Write what was planned beside what was measured."""
        plan = self.setup.plan
        if plan is not None and self.last_seconds:
            peak = hardware.memory_in_use(self.setup.device).peak
            self.writer.write(checked(plan, self.at.step, peak, list(self.last_seconds)))

    def _train(self) -> None:
        setup, config = self.setup, self.config
        while self.at.step < setup.total_steps and not self.stop.asked:
            began, number, epoch = time.perf_counter(), self.at.step + 1, int(setup.epochs_done)
            step = self._accumulated(number)
            if step is None:
                return
            for group in setup.optimizer.param_groups:
                group["lr"] = setup.learning_rate(number) * group["lr_ratio"]
            look = self.adapter_watch.look if self.adapter_watch.is_due(number) else None
            result = step.finish(setup.optimizer, max_grad_norm=config.max_grad_norm, look=look)
            self._write_notes()
            self.at = Progress(step=number, tokens=self.at.tokens + result.tokens)
            seconds = time.perf_counter() - began
            self.seconds_per_micro_batch = seconds / setup.micro_batches_of(number)
            self._note_step(result, seconds)
            epoch_ended = self._epoch_counts(epoch, int(setup.epochs_done))
            if _due(number, config.eval_steps, epoch_ended):
                self.measure.held_out_loss(number)
            if _due(number, config.save_steps, epoch_ended):
                self._save()

    def _accumulated(self, number: int) -> Step | None:
        """The step with all of its micro-batches done. None: a stop left no time for all. `at` then says which are,
        and the loader stands at the step's first again."""
        setup, began = self.setup, time.perf_counter()
        position, size = setup.loader.state_dict(), setup.micro_batches_of(number)
        step = Step(
            setup.objective,
            self.parameters,
            list(islice(setup.loader, size)),
            losses=self.at.losses,
            economy=self.economy,
        )

        def goes_on(to_do: int) -> bool:
            each = self.seconds_per_micro_batch or (time.perf_counter() - began) / (size - to_do)
            return self.stop.waits(to_do * each)

        setup.model.train()
        if step.accumulate(goes_on):
            return step
        setup.loader.load_state_dict(position)
        self.at = replace(self.at, losses=step.losses())
        return None

    def _epoch_counts(self, before: int, now: int) -> bool:
        """Whether an epoch ended that counts: every one, or every so many, where a few rows make an epoch a step long.

        By the number of the epoch, so that a resumed run evaluates and saves when an uninterrupted one does.
        """
        epochs = self.setup.total_micro_batches / self.setup.loader.num_batches(0)
        stride = max(1, round(epochs / _MOST_EPOCHS_THAT_COUNT))
        return now // stride > before // stride

    def _write_notes(self) -> None:
        """What the objective has decided since the last time."""
        for note in self.setup.objective.notes[self.notes_written :]:
            self.writer.write(Noted(message=note))
        self.notes_written = len(self.setup.objective.notes)

    def _note_step(self, result: StepResult, seconds: float) -> None:
        step = self.at.step
        self.unlogged.append((result, seconds))
        self.last_seconds.append(seconds)
        if step % self.config.logging_steps == 0 or step == self.setup.total_steps:
            self._log_steps()
        if not result.taken:
            self._note_failed(result)
            return
        self.failed_in_a_row = 0
        jump = self.loss_watch.note(result.loss)
        for finding in ([f"step {step}: {jump}"] if jump else []) + self.adapter_watch.findings(step):
            self._warn(finding)

    def _note_failed(self, result: StepResult) -> None:
        """Raises QuatrainError when too many steps in a row weren't taken."""
        described = f"loss {result.loss}, gradient norm {result.grad_norm}"
        self._warn(
            f"step {self.at.step} isn't taken: {described}; {self.suspects.write(self.at.step, result.suspects)}"
        )
        self.failed_in_a_row += 1
        if self.failed_in_a_row == _MOST_FAILED_STEPS:
            # The adapter is as it was before the first of them; whether that is good only its owner can tell.
            self._save()
            raise QuatrainError(
                f"{_MOST_FAILED_STEPS} steps in a row had no finite gradient ({described}). Lower `learning_rate`, or "
                f"look at the rows in {self.folder.suspects}; checkpoints hold the adapter as it was before these steps"
            )

    def _log_steps(self) -> None:
        """The steps since the last event as one."""
        if not self.unlogged:
            return
        results, memory = [result for result, _ in self.unlogged], hardware.memory_in_use(self.setup.device)
        supervised = sum(r.supervised_tokens for r in results)
        event = StepDone(
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
        self.unlogged.clear()
        self.writer.write(event)

    def _save(self, *, last: bool = False) -> None:
        # What the log says must reach as far as the checkpoint: a run that is resumed from it does these steps no more.
        self._log_steps()
        # While steps fail, nobody knows when it began: older checkpoints may be the good ones.
        self.saver.save(self.at, last=last, keep_old=self.failed_in_a_row > 0)

    def _warn(self, message: str) -> None:
        self.writer.write(Noted(level="warning", message=message))

    def _close(self, status: Status) -> None:
        self.writer.write(
            RunFinished(
                step=self.at.step,
                status=status,
                seconds=time.perf_counter() - self.began,
                tokens=self.at.tokens - self.tokens_at_start,
                peak_memory=max(self.peak_before, hardware.memory_in_use(self.setup.device).peak),
            )
        )
        try:
            write_report(self.folder)
        except (OSError, CheckpointError) as error:
            self._warn(f"the report can't be written ({error}); `quatrain report` makes it from the events")


def _due(step: int, every: int | None, epoch_ended: bool) -> bool:
    return epoch_ended if every is None else step % every == 0
