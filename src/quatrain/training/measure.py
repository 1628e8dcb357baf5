"""What is measured beside the training itself: loss on held-out rows, and a task before and after."""

import time
from collections.abc import Iterable
from typing import Literal

from quatrain.evaluation import evaluate_loss, run_task
from quatrain.runlog import Evaluated, Event, EventWriter, Sampled
from quatrain.training.build import Setup
from quatrain.training.interrupt import StopRequest
from quatrain.training.progress import ProgressDisplay

_HELD_OUT, _TASK = "held-out", "task"

Measured = set[tuple[int, str]]
"""Steps, and what was measured after them."""


def measured(events: Iterable[Event]) -> Measured:
    """What the events say was measured."""
    return {(event.step, event.split) for event in events if isinstance(event, Evaluated)}


class Measurements:
    """Measures a run's model and writes the results as events. A stop request breaks a measurement off.

    Args:
        done: what was measured before the run was resumed; nothing is measured twice.
    """

    def __init__(self, setup: Setup, writer: EventWriter, display: ProgressDisplay, stop: StopRequest, done: Measured):
        self._setup, self._writer, self._display, self._stop = setup, writer, display, stop
        self._done = done

    def held_out_loss(self, step: int) -> None:
        """Loss and perplexity on the held-out rows, if there are any.

        Raises:
            Interrupted: a stop was asked for.
        """
        if self._setup.held_out is None or (step, _HELD_OUT) in self._done:
            return
        began = time.perf_counter()
        result = evaluate_loss(self._setup.objective, self._stop.over(self._setup.held_out.epoch(0)))
        self._done.add((step, _HELD_OUT))
        seconds = time.perf_counter() - began
        self._writer.write(
            Evaluated(step=step, split=_HELD_OUT, loss=result.loss, perplexity=result.perplexity, seconds=seconds)
        )

    def task(self, step: int, when: Literal["before", "after"]) -> None:
        """The task's score and some answers word for word, if the run has a task.

        Raises:
            Interrupted: a stop was asked for.
        """
        task = self._setup.config.task_eval
        if task is None or (when == "before" and not task.before) or (step, _TASK) in self._done:
            return

        def told(done: int, total: int) -> None:
            self._stop.check()
            self._display.work(f"answering, {when} training", done, total)

        setup = self._setup
        result = run_task(setup.model, setup.tokenizer, task, questions=setup.questions, progress=told)
        scores = {result.metric: result.score}
        self._writer.write(Evaluated(step=step, split=_TASK, metrics=scores, seconds=result.seconds))
        for answer in result.answers[: task.samples]:
            asked = answer.question
            self._writer.write(
                Sampled(step=step, prompt=asked.text, answer=answer.answer, reference=asked.reference, when=when)
            )
