"""Loss and perplexity on held-out rows: the training objective, row by row.

Rows are rendered as for training, and the same tokens count: the replies', unless `train_on` says otherwise. A row's
score is its mean loss per token, its weight the number of them, so the weighted mean is the loss of all tokens. Those
belong to a tokenizer: losses of models with different ones can't be compared, and perplexities neither.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quatrain.data import DataConfig, DataSummary, Samples, prepare
from quatrain.evaluation.likelihood import Asked
from quatrain.evaluation.tasks.subject import Subject
from quatrain.evaluation.tasks.task import Answered, Closing


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Cross-entropy over the learned tokens of rows."""

    name: str
    data: DataConfig
    max_length: int = 2048
    """Longest row in tokens; a longer one is cut, as in training."""
    show: Callable[[DataSummary], object] = lambda summary: None
    """Told what the rows are."""

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"kind": "loss", "max_length": self.max_length, "train_on": self.data.train_on}

    @property
    def source(self) -> str:
        return self.data.path

    def prepare(self, subject: Subject) -> "PreparedLoss":
        vocabulary = subject.model.get_input_embeddings().num_embeddings
        length = min(self.max_length, subject.context)
        prepared = prepare(self.data, subject.tokenizer, max_length=length, vocabulary=vocabulary)
        self.show(prepared.summary)
        return PreparedLoss(subject, prepared.samples, prepared.summary.cut)


class PreparedLoss:
    """Rows as tokens of one subject."""

    def __init__(self, subject: Subject, samples: Samples, cut: int):
        self._subject, self._samples, self._cut = subject, samples, cut
        self.total = len(samples)
        self.identity = samples.fingerprint()

    def answers(self, questions: Sequence[int]) -> Iterator[Answered]:
        found = self._subject.likelihood([Asked(self._samples[number]) for number in questions])
        for number, answer in zip(questions, found, strict=True):
            tokens = int(self._samples[number].supervised.sum())
            yield Answered(number, {"loss": -answer.log_probs[0] / tokens}, weight=tokens)

    def close(self) -> Closing:
        return Closing(notes=(f"{self._cut:,} rows were cut at their end",) if self._cut else ())
