"""What every task has in common: questions that a model answers, each answer with its scores.

A task (what is asked, and how it is scored) is prepared for a subject (who is asked), which reads its rows and makes
tokens of them. Only then is anything computed, question by question, so that answers can be kept as they come.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from quatrain.evaluation.tasks.subject import Subject


@dataclass(frozen=True)
class Answered:
    """One question's answer and what it is worth."""

    question: int
    """Its number in the task, from 0."""
    scores: Mapping[str, float]
    """By metric."""
    said: str = ""
    reference: str = ""
    group: str | None = None
    """What the question belongs to, such as a subject of MMLU."""
    weight: float = 1.0
    """How much it counts in the mean: a text's tokens for a loss, 1 otherwise."""


@dataclass(frozen=True)
class Closing:
    """What is only known when all is answered."""

    figures: Mapping[str, float] = field(default_factory=dict)
    """Figures that aren't a mean over questions."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know, such as prompts that were cut."""


class Prepared(Protocol):
    """A task whose questions are ready for one subject."""

    @property
    def identity(self) -> str:
        """Hexadecimal digest of all questions and references."""
        ...

    @property
    def total(self) -> int | None:
        """Number of questions; None where only the end tells."""
        ...

    def answers(self, questions: Sequence[int]) -> Iterator[Answered]:
        """Answer these, by number, in any order; all of them where `total` is None."""
        ...

    def close(self) -> Closing:
        """To be asked when all is answered."""
        ...


class Task(Protocol):
    """What is asked, and how it is scored."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its figures depend on besides the questions and the subject; plain values."""
        ...

    @property
    def source(self) -> str:
        """Where the questions come from, for a person."""
        ...

    def prepare(self, subject: Subject) -> Prepared:
        """Read the questions.

        Raises:
            DataError: the rows can't be read, or aren't what the task needs; the message names the row.
        """
        ...
