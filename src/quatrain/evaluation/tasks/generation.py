"""Questions that the model answers in its own words, scored against a reference (`metrics`)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quatrain.data import DataConfig, Question
from quatrain.evaluation.config import TaskConfig
from quatrain.evaluation.generation import answer_batches
from quatrain.evaluation.metrics import METRICS
from quatrain.evaluation.task import read_task
from quatrain.evaluation.tasks.subject import Subject
from quatrain.evaluation.tasks.task import Answered, Closing


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Greedy answers; prompts are rendered as in training and chat."""

    name: str
    config: TaskConfig

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "generation",
            "metric": self.config.metric,
            "max_new_tokens": self.config.max_new_tokens,
            "chat": self._data.chat,
        }

    @property
    def source(self) -> str:
        return self._data.path

    @property
    def _data(self) -> DataConfig:
        assert isinstance(self.config.data, DataConfig)
        return self.config.data

    def prepare(self, subject: Subject) -> "PreparedGeneration":
        return PreparedGeneration(subject, read_task(self.config, subject.tokenizer), self.config)


class PreparedGeneration:
    """Questions as prompts of one subject."""

    def __init__(self, subject: Subject, questions: Sequence[Question], config: TaskConfig):
        self._subject, self._questions, self._config = subject, questions, config
        self.total = len(questions)
        self.identity = hashlib.sha256(repr([question.asked for question in questions]).encode()).hexdigest()

    def answers(self, questions: Sequence[int]) -> Iterator[Answered]:
        subject, score = self._subject, METRICS[self._config.metric]
        batches = answer_batches(
            subject.model,
            subject.tokenizer,
            [self._questions[number].prompt_ids for number in questions],
            max_new_tokens=self._config.max_new_tokens,
            batch_size=subject.batch_size,
        )
        for batch in batches:
            for place, said in batch.items():
                reference = self._questions[questions[place]].reference
                scores = {self._config.metric: float(score(said, reference))}
                yield Answered(questions[place], scores, said, reference)

    def close(self) -> Closing:
        room = self._subject.context - self._config.max_new_tokens
        beyond = sum(len(question.prompt_ids) > room for question in self._questions)
        return Closing(notes=(f"{beyond:,} prompts leave less room than an answer may take",) if beyond else ())
