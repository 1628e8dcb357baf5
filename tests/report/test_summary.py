"""The numbers of a run: before and after, across sessions, honest about losses that broke."""

import math
from typing import Literal

from quatrain.report import Change, summarize
from quatrain.runlog import Evaluated, Event, EventWriter, RunFinished, RunFolder, RunStarted, StepDone


def started(time: float, start_step: int = 0) -> RunStarted:
    return RunStarted(
        time=time,
        base="org/base",
        device="CPU",
        total_steps=4,
        start_step=start_step,
        trainable_parameters=10,
        total_parameters=100,
        base_bytes=50,
        compute_dtype="float32",
        rows=6,
        tokens=98,
        supervised_tokens=31,
    )


def step(number: int, time: float, loss: float = 1.0, seconds: float = 1.0) -> StepDone:
    return StepDone(
        time=time,
        step=number,
        loss=loss,
        learning_rate=1e-4,
        grad_norm=0.5,
        tokens=100,
        supervised_tokens=20,
        seconds=seconds,
        memory=10,
        peak_memory=20 + number,
        epoch=0.5 * number,
    )


def finished(time: float, status: Literal["completed", "interrupted"] = "completed") -> RunFinished:
    return RunFinished(time=time, step=4, status=status, seconds=1.0, tokens=100, peak_memory=30)


def summary(tmp_path, *events: Event, config: str | None = None):
    folder = RunFolder(tmp_path)
    if config is not None:
        folder.config.write_text(config)
    with EventWriter(folder.events) as writer:
        for event in events:
            writer.write(event)
    return summarize(folder)


def test_a_resumed_run_is_one_run_and_the_break_does_not_count(tmp_path):
    config = "data: {path: a/b.jsonl}\nquantization: nf4\nlora: {r: 8, target_modules: all-linear}\n"
    first = [
        started(100.0),
        step(1, 101.0, loss=3.0),
        step(2, 102.0, loss=2.0, seconds=2.0),
        finished(103.0, "interrupted"),
    ]
    second = [started(500.0, start_step=2), step(3, 501.0, loss=1.0), step(4, 502.0, loss=0.0), finished(504.0)]
    found = summary(tmp_path, *first, *second, config=config)
    assert (found.status, found.steps, found.total_steps, found.epochs) == ("completed", 4, 4, 2.0)
    assert (found.seconds, found.tokens, found.tokens_per_second, found.peak_memory) == (7.0, 400, 100.0, 24)
    assert (found.first_loss, found.final_loss) == (3.0, 1.5)
    assert (found.base, found.short_data, found.quantization) == ("org/base", "b.jsonl", "nf4")
    assert found.adapter == "LoRA r = 8 on all-linear"


def test_before_is_step_zero_and_after_is_the_last_measurement(tmp_path):
    def measured(step: int, loss: float | None = None, **metrics: float) -> Evaluated:
        return Evaluated(step=step, split="eval", loss=loss, metrics=metrics, seconds=1.0)

    found = summary(tmp_path, measured(0, exact_match=0.1), measured(2, 1.5), measured(4, 1.2, exact_match=0.9))
    assert found.changes == [Change("eval", "exact_match", 0.1, 0.9), Change("eval", "loss", None, 1.2)]


def test_a_run_is_unfinished_while_steps_follow_its_last_end(tmp_path):
    events = [started(1.0), step(1, 2.0), finished(3.0, "interrupted"), started(9.0, 1), step(2, 10.0)]
    assert summary(tmp_path, *events).status == "unfinished"


def test_a_loss_that_broke_is_not_hidden_by_earlier_ones(tmp_path):
    found = summary(tmp_path, started(1.0), step(1, 2.0), step(2, 3.0, loss=math.nan))
    assert found.final_loss is not None and math.isnan(found.final_loss)


def test_an_empty_run_has_no_losses(tmp_path):
    found = summary(tmp_path)
    assert (found.first_loss, found.final_loss, found.steps, found.status) == (None, None, 0, "unfinished")


def test_an_adapter_that_goes_on_from_another_says_so(tmp_path):
    assert summary(tmp_path, config="adapter: runs/old/adapter").adapter == "LoRA, continued from runs/old/adapter"
