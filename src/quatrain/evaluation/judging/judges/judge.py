"""What every judge offers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from quatrain.evaluation.judging.verdicts import Outcome


@dataclass(frozen=True)
class Reply:
    """A judge's word on one prompt."""

    verdict: Outcome
    text: str
    """What it said, or why it didn't; kept with the verdict."""
    prompt_tokens: int = 0
    """As the judge counts them; 0 where it doesn't say."""
    reply_tokens: int = 0


Tell = Callable[[int, Reply], None]
"""Told the number of the prompt and the reply, as soon as there is one, in any order."""


class Judge(Protocol):
    """Decides between pairs of answers."""

    def __call__(self, prompts: Sequence[str], tell: Tell) -> list[str]:
        """Judge all prompts.

        Returns:
            Why prompts were left without a reply, each reason once; empty if all were judged.

        Raises:
            JudgeError: it can't judge at all.
        """
        ...
