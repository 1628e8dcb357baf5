"""Run a task: ask each question, score each answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from quatrain.data import BadRows, DataConfig, Question, read_questions
from quatrain.evaluation.config import TaskConfig
from quatrain.evaluation.generation import generate_answers
from quatrain.evaluation.metrics import METRICS


@dataclass(frozen=True)
class Answer:
    """One question, what the model said, and what it should have said."""

    question: Question
    answer: str
    correct: bool


@dataclass(frozen=True)
class TaskResult:
    """All answers of a task, in the order of its rows."""

    metric: str
    answers: list[Answer]
    seconds: float

    @property
    def score(self) -> float:
        """Share of correct answers, 0 to 1."""
        return sum(a.correct for a in self.answers) / len(self.answers)


def read_task(task: TaskConfig, tokenizer: Any, bad: BadRows | None = None) -> list[Question]:
    """The task's questions; `bad` counts the rows that are left out, if the caller wants to know.

    Raises:
        DataError: the rows can't be read, or one has no question and reference.
    """
    assert isinstance(task.data, DataConfig)
    return read_questions(task.data, tokenizer, bad)[: task.max_rows]


def run_task(
    model: nn.Module,
    tokenizer: Any,
    task: TaskConfig,
    *,
    questions: Sequence[Question] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Answer every question of the task greedily and score the answers.

    Args:
        questions: the task's, when they are read already.

    Raises:
        DataError: as :func:`read_task`.
    """
    began = time.perf_counter()
    questions = read_task(task, tokenizer) if questions is None else questions
    said = generate_answers(
        model,
        tokenizer,
        [q.prompt_ids for q in questions],
        max_new_tokens=task.max_new_tokens,
        batch_size=task.batch_size,
        progress=progress,
    )
    score = METRICS[task.metric]
    answers = [Answer(q, s, score(s, q.reference)) for q, s in zip(questions, said, strict=True)]
    return TaskResult(task.metric, answers, time.perf_counter() - began)
