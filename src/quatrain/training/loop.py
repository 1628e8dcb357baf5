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
from quatrain.errors import QuatrainError
from quatrain.evaluation import evaluate_loss, run_task
from quatrain.report import write_report
from quatrain.runlog import (
    CheckpointSaved,
    Evaluated,
    Event,
    EventWriter,
    Noted,
    RunFinished,
    RunFolder,
    Sampled,
    Sink,
    StepDone,
    TensorBoardSink,
    truncate_after,
)
from quatrain.training.announce import run_started
from quatrain.training.build import Setup, build
from quatrain.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from quatrain.training.config import RunConfig
from quatrain.training.config_file import write_config
from quatrain.training.interrupt import StopRequest
from quatrain.training.progress import ProgressDisplay
from quatrain.training.step import StepResult, train_step

_MOST_FAILED_STEPS = 5


@dataclass(frozen=True)
class RunResult:
    """A run that ended in an orderly way."""

    folder: RunFolder
    step: int
    status: Literal["completed", "interrupted"]


def train(
    model: nn.Module | None = None,
    tokenizer: Any = None,
    config: RunConfig | None = None,
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
        resume: go on from the newest checkpoint in `config.output_dir`, exactly where it stopped.
        overwrite: replace a run that is already there.
        progress: show bars and lines while it works.
        sinks: called with every event, for trackers of your own.

    Raises:
        QuatrainError: a typed error that says rule, value and remedy.
    """
    if config is None:
        raise TypeError("train() needs a RunConfig: train(model, tokenizer, RunConfig(data=...))")
    folder = RunFolder(Path(config.output_dir))
    folder.create(resume=resume, overwrite=overwrite)
    with ProgressDisplay(enabled=progress) as display:
        setup = build(config, model, tokenizer, display.work)
        at = load_checkpoint(folder, setup) if resume else Progress()
        if resume:
            truncate_after(folder.events, at.step)
        write_config(config, folder.config)
        display.show(setup.data.summary)
        with (
            TensorBoardSink(folder.tensorboard, at.step if resume else None) as board,
            EventWriter(folder.events, [display.event, board, *sinks]) as writer,
            StopRequest() as stop,
        ):
            return _Run(setup, folder, writer, display, stop).go(at)


class _Run:
    """The state of one call of `train`; `go` runs it to its end."""

    def __init__(
        self, setup: Setup, folder: RunFolder, writer: EventWriter, display: ProgressDisplay, stop: StopRequest
    ):
        self.setup, self.folder, self.writer, self.display, self.stop = setup, folder, writer, display, stop
        self.config = setup.config
        self.parameters = list(adapter_parameters(setup.model).values())
        self.failed_in_a_row = 0
        self.tokens_at_start = 0
        self.evaluated_at = self.saved_at = -1

    def go(self, at: Progress) -> RunResult:
        began = time.perf_counter()
        self.tokens_at_start = at.tokens
        hardware.reset_peak(self.setup.device)
        self._announce(at)
        if at.step == 0 and self.config.task_eval and self.config.task_eval.before:
            self._run_task(0, "before")
        if at.step == 0:
            self._evaluate(0)
        at = self._train_from(at)
        stopped = at.step < self.setup.total_steps
        if self.saved_at != at.step:
            self._save(at)
        if not stopped:
            self._finish(at)
        status: Literal["completed", "interrupted"] = "interrupted" if stopped else "completed"
        self._write(
            RunFinished(
                step=at.step,
                status=status,
                seconds=time.perf_counter() - began,
                tokens=at.tokens - self.tokens_at_start,
                peak_memory=hardware.memory_in_use(self.setup.device).peak,
            )
        )
        write_report(self.folder)
        return RunResult(self.folder, at.step, status)

    def _train_from(self, at: Progress) -> Progress:
        setup, config = self.setup, self.config
        batches = iter(setup.loader)
        while at.step < setup.total_steps and not self.stop.asked:
            began = time.perf_counter()
            step, epoch_before = at.step + 1, setup.epochs_done
            for group in setup.optimizer.param_groups:
                group["lr"] = setup.learning_rate(step)
            setup.model.train()
            with setup.objective.ready():
                result = train_step(
                    setup.objective,
                    self.parameters,
                    setup.optimizer,
                    [next(batches) for _ in range(setup.micro_batches_of(step))],
                    max_grad_norm=config.max_grad_norm,
                )
            at = Progress(step=step, tokens=at.tokens + result.tokens)
            self._note_step(at, result, time.perf_counter() - began)
            epoch_ended = int(setup.epochs_done) > int(epoch_before)
            if _due(step, config.eval_steps, epoch_ended):
                self._evaluate(step)
            if _due(step, config.save_steps, epoch_ended):
                self._save(at)
        return at

    def _announce(self, at: Progress) -> None:
        self._write(run_started(self.setup, at.step))
        for note in self.setup.objective.notes:
            self._write(Noted(message=note))

    def _note_step(self, at: Progress, result: StepResult, seconds: float) -> None:
        self.failed_in_a_row = 0 if result.taken else self.failed_in_a_row + 1
        if not result.taken:
            self._write(Noted(level="warning", message=f"step {at.step} isn't taken: {_describe(result)}"))
        if self.failed_in_a_row >= _MOST_FAILED_STEPS:
            raise QuatrainError(
                f"{_MOST_FAILED_STEPS} steps in a row had no finite gradient ({_describe(result)}). "
                "The last checkpoint is good; lower `learning_rate` and start again"
            )
        if at.step % self.config.logging_steps and at.step != self.setup.total_steps:
            return
        memory = hardware.memory_in_use(self.setup.device)
        self._write(
            StepDone(
                step=at.step,
                loss=result.loss,
                learning_rate=self.setup.optimizer.param_groups[0]["lr"],
                grad_norm=result.grad_norm,
                tokens=result.tokens,
                supervised_tokens=result.supervised_tokens,
                seconds=seconds,
                memory=memory.current,
                peak_memory=memory.peak,
                epoch=self.setup.epochs_done,
            )
        )

    def _evaluate(self, step: int) -> None:
        if self.setup.held_out is None or self.evaluated_at == step:
            return
        began = time.perf_counter()
        result = evaluate_loss(self.setup.objective, self.setup.held_out.epoch(0))
        self.evaluated_at = step
        self._write(
            Evaluated(
                step=step,
                split="held-out",
                loss=result.loss,
                perplexity=result.perplexity,
                seconds=time.perf_counter() - began,
            )
        )

    def _run_task(self, step: int, when: Literal["before", "after"]) -> None:
        task = self.config.task_eval
        assert task is not None
        result = run_task(
            self.setup.model,
            self.setup.tokenizer,
            task,
            progress=lambda *at: self.display.work(f"answering, {when} training", *at),
        )
        self._write(Evaluated(step=step, split="task", metrics={result.metric: result.score}, seconds=result.seconds))
        for answer in result.answers[: task.samples]:
            self._write(
                Sampled(
                    step=step,
                    prompt=answer.question.text,
                    answer=answer.answer,
                    reference=answer.question.reference,
                    when=when,
                )
            )

    def _save(self, at: Progress) -> None:
        began = time.perf_counter()
        path = save_checkpoint(self.folder, self.setup, at, keep=self.config.save_total_limit)
        self.saved_at = at.step
        self._write(
            CheckpointSaved(
                step=at.step,
                path=str(path.relative_to(self.folder.path)),
                size=sum(f.stat().st_size for f in path.iterdir()),
                seconds=time.perf_counter() - began,
            )
        )

    def _finish(self, at: Progress) -> None:
        """Final measurements and the adapter that the run hands over."""
        self._evaluate(at.step)
        shutil.rmtree(self.folder.adapter, ignore_errors=True)
        save_adapter(self.setup.model, self.folder.adapter, base_model_name_or_path=self.config.model)
        if self.config.task_eval:
            self._run_task(at.step, "after")

    def _write(self, event: Event) -> None:
        self.writer.write(event)


def _due(step: int, every: int | None, epoch_ended: bool) -> bool:
    return epoch_ended if every is None else step % every == 0


def _describe(result: StepResult) -> str:
    return f"loss {result.loss}, gradient norm {result.grad_norm}"
