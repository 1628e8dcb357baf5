"""How far a merged model is from base + adapter, measured on text.

Both read the same samples, and at each learned position their logits are compared: the largest difference of any, and
the Kullback-Leibler divergence KL(base + adapter ‖ merged), the nats that are lost by taking the merged model's
distribution for the trained one's. The loss says which of the two is better at the task, the divergence only that they
differ. The trained model's logits are kept meanwhile, and that bounds the number of positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quatrain.data import DataConfig, Sample, prepare

_LARGEST = 256 << 20
"""Bytes of logits that are kept: 1,024 positions of a vocabulary of 65,536, in float32."""
_PROSE = (
    "The water of the lake was so clear that the stones at its bottom could be counted from the boat.",
    "To make bread you need flour, water, salt and time; most of the work is waiting.",
    "In 1969 two people walked on the moon for the first time, and half a billion watched them do it.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "Question: if a train leaves at nine and takes two hours and a half, when does it arrive? Answer: at half past "
    "eleven.",
)
"""Read where no rows are known; four bits and an adapter change the distribution of any text."""


@dataclass(frozen=True)
class Agreement:
    """Of a merged model with base + adapter."""

    loss: float
    """Of the merged model on the learned tokens, in nats."""
    kl: float
    """KL(base + adapter ‖ merged), mean over positions, in nats."""
    max_logit_difference: float
    """The largest of any logit."""
    same_choice: float
    """Share of positions at which both hold the same token for the likeliest."""

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f}, KL {self.kl:.2e}, largest difference of a logit {self.max_logit_difference:.3g}, "
            f"same choice at {self.same_choice:.1%}"
        )


@dataclass(frozen=True)
class Reference:
    """What base + adapter say."""

    samples: list[Sample]
    logits_TV: list[Tensor]
    """Of each sample's learned positions, float32 on the CPU."""
    loss: float

    @property
    def positions(self) -> int:
        return sum(len(logits) for logits in self.logits_TV)


def samples_of(rows: DataConfig | None, tokenizer: Any, *, max_length: int, max_rows: int) -> list[Sample]:
    """The first `max_rows` rows as samples; a few sentences where there are none.

    Raises:
        DataError: the rows can't be read.
    """
    if rows is not None:
        limited = DataConfig(**{**vars(rows), "max_rows": min(max_rows, rows.max_rows or max_rows)})
        return list(prepare(limited, tokenizer, max_length=max_length).samples)
    return [_plain_sample(tokenizer(text)["input_ids"]) for text in _PROSE]


def _plain_sample(ids: Sequence[int]) -> Sample:
    array = torch.tensor(ids, dtype=torch.int32).numpy()
    learned = torch.ones(len(ids), dtype=torch.bool)
    learned[0] = False
    return Sample(array, learned.numpy())


def refer(model: Any, samples: Iterable[Sample]) -> Reference:
    """Let the trained model read samples, as many as its logits may take room."""
    most = max(1, _LARGEST // (4 * model.get_input_embeddings().num_embeddings))
    kept, logits, loss, tokens = list[Sample](), list[Tensor](), 0.0, 0
    for sample in samples:
        if kept and tokens + int(sample.supervised.sum()) > most:
            break
        logits_TV, targets_T = _read(model, sample)
        loss += F.cross_entropy(logits_TV, targets_T, reduction="sum").item()
        tokens += len(targets_T)
        kept.append(sample)
        logits.append(logits_TV)
    return Reference(kept, logits, loss / max(1, tokens))


def compare(model: Any, reference: Reference) -> Agreement:
    """Let a merged model read what base + adapter have read."""
    kl, loss, largest, same = 0.0, 0.0, 0.0, 0
    for sample, expected_TV in zip(reference.samples, reference.logits_TV, strict=True):
        logits_TV, targets_T = _read(model, sample)
        loss += F.cross_entropy(logits_TV, targets_T, reduction="sum").item()
        found, expected = logits_TV.log_softmax(-1), expected_TV.log_softmax(-1)
        kl += F.kl_div(found, expected, reduction="sum", log_target=True).item()
        largest = max(largest, (logits_TV - expected_TV).abs().max().item())
        same += int((logits_TV.argmax(-1) == expected_TV.argmax(-1)).sum())
    count = reference.positions
    return Agreement(loss / count, kl / count, largest, same / count)


@torch.inference_mode()
def _read(model: Any, sample: Sample) -> tuple[Tensor, Tensor]:
    """Logits [learned positions, vocabulary] in float32 on the CPU, and the tokens that follow there."""
    ids = torch.from_numpy(sample.input_ids).long()
    learned = torch.from_numpy(sample.supervised)[1:].nonzero()[:, 0]
    logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
    return logits[learned.to(logits.device)].float().cpu(), ids[1:][learned]
