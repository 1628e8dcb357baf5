"""Multiple choice by likelihood: the choice that the model finds likeliest behind the prompt is its answer.

Nothing is written and nothing has to be parsed, so a model that can't follow a format is measured by what it knows.
`acc` takes the choice with the largest log-probability. Where choices are whole texts, a longer one is less likely only
because it is longer, so there is also `acc_norm`, which divides by the number of characters. Both are named and
computed as in lm-evaluation-harness.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quatrain.data import DataConfig, Sample
from quatrain.errors import DataError
from quatrain.evaluation.likelihood import Asked
from quatrain.evaluation.tasks.choice_rows import ChoiceQuestion, Style, read_choice_questions
from quatrain.evaluation.tasks.subject import Subject
from quatrain.evaluation.tasks.task import Answered, Closing


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    """Questions with choices; see `choice_rows` for how rows read."""

    name: str
    data: DataConfig
    style: Style

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"kind": "multiple_choice", "style": self.style}

    @property
    def source(self) -> str:
        return self.data.path

    def prepare(self, subject: Subject) -> "PreparedChoices":
        return PreparedChoices(subject, read_choice_questions(self.data, self.style), norm=self.style == "whole")


class PreparedChoices:
    """Questions as tokens of one subject.

    Args:
        norm: also tell `acc_norm`.

    Raises:
        DataError: a choice alone is longer than the model's context, or has no tokens.
    """

    def __init__(self, subject: Subject, questions: Sequence[ChoiceQuestion], *, norm: bool):
        self._subject, self._questions, self._norm = subject, questions, norm
        self.total = len(questions)
        told = json.dumps([asdict(question) for question in questions])
        self.identity = hashlib.sha256(told.encode()).hexdigest()
        tokens = _Tokens(subject)
        self._asked = [list(tokens.asked(question)) for question in questions]
        self._cut = tokens.cut

    def answers(self, questions: Sequence[int]) -> Iterator[Answered]:
        found = self._subject.likelihood([one for number in questions for one in self._asked[number]])
        for number in questions:
            answers = [next(found) for _ in self._asked[number]]
            yield self._scored(number, [value for one in answers for value in one.log_probs])

    def close(self) -> Closing:
        if not self._cut:
            return Closing()
        return Closing(notes=(f"{self._cut:,} prompts were cut at their beginning to fit the model's context",))

    def _scored(self, number: int, log_probs: list[float]) -> Answered:
        question = self._questions[number]
        chosen = int(np.argmax(log_probs))
        scores = {"acc": float(chosen == question.answer)}
        if self._norm:
            per_character = [value / len(choice) for value, choice in zip(log_probs, question.choices, strict=True)]
            scores["acc_norm"] = float(int(np.argmax(per_character)) == question.answer)
        said, reference = question.choices[chosen], question.choices[question.answer]
        return Answered(number, scores, said, reference, question.subject)


class _Tokens:
    """Makes samples of questions. Prompt and choice are tokenized together, since the tokenizer may treat the space
    between them as part of the choice; what the prompt alone doesn't have is the choice's."""

    def __init__(self, subject: Subject):
        self._tokenizer, self._context = subject.tokenizer, subject.context
        self.cut = 0
        """Prompts that were too long."""

    def asked(self, question: ChoiceQuestion) -> Iterator[Asked]:
        """A sample for each choice; one alone if each choice is one token."""
        prompt = question.prompt.rstrip()
        texts = [prompt, *(f"{prompt} {choice}" for choice in question.choices)]
        start, *wholes = (self._without_end(ids) for ids in self._tokenizer(texts)["input_ids"])
        choices = [whole[len(start) :] for whole in wholes]
        self._check(start, choices, question)
        self.cut += len(start) + max(map(len, choices)) > self._context
        if all(len(choice) == 1 for choice in choices):
            yield Asked(self._sample(start, choices[0]), tuple(choice[0] for choice in choices))
        else:
            yield from (Asked(self._sample(start, choice)) for choice in choices)

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self._tokenizer.eos_token_id else ids

    def _sample(self, prompt: list[int], choice: list[int]) -> Sample:
        ids = np.array([*prompt, *choice], dtype=np.int32)
        supervised = np.arange(len(ids)) >= len(prompt)
        return Sample(ids[-self._context :], supervised[-self._context :])

    def _check(self, prompt: list[int], choices: list[list[int]], question: ChoiceQuestion) -> None:
        if not prompt:
            raise DataError(f"a prompt must have tokens, got {question.prompt!r}; give the question a text")
        for choice, text in zip(choices, question.choices, strict=True):
            if not choice:
                raise DataError(f"the choice {text!r} has no tokens behind {question.prompt[-40:]!r}; leave it out")
            if len(choice) >= self._context:
                raise DataError(
                    f"a choice and a token before it must fit into the model's context of {self._context:,} tokens; "
                    f"the choice {text[:40]!r}… has {len(choice):,}; shorten it, or leave its question out"
                )
