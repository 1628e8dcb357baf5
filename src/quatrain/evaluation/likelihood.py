"""How likely a model finds texts: log-probabilities of chosen tokens, for many samples at once.

Everything that needs no writing is measured so: loss and perplexity, and multiple choice, where the likeliest of the
given answers counts as the model's. Samples are packed into rows, each as if it were alone, so nothing is padded, and
the head runs on those tokens only that are asked about. What a sample is worth doesn't depend on its neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quatrain.data import MicroBatch, Sample
from quatrain.data.batch import packed_batch, padded_batch, rounded
from quatrain.models.objective import Objective

_TOKENS = 4096
"""Of a row: enough for a GPU to be busy, few enough for a small one."""


@dataclass(frozen=True)
class Asked:
    """A sample, and what is asked about it."""

    sample: Sample
    """`supervised` says which tokens' probabilities are asked for."""
    candidates: tuple[int, ...] = ()
    """Tokens that might stand in the place of the supervised one, if they are asked for; there is one place then."""


@dataclass(frozen=True)
class Found:
    """The model's answer about one sample."""

    log_probs: tuple[float, ...]
    """Of each candidate; without any, one number: the sum over the supervised tokens. In nats."""
    greedy: tuple[bool, ...]
    """Whether greedy decoding would write the candidate, or all of the supervised tokens."""


class Likelihood:
    """Asks a model for log-probabilities.

    Args:
        model: a causal language model, adapted or not. It is left in evaluation mode.
    """

    def __init__(self, model: nn.Module):
        model.eval()
        self._objective = Objective(model)

    def __call__(self, asked: Sequence[Asked]) -> Iterator[Found]:
        """One answer for each sample, in their order, as soon as there is one."""
        for chosen in self._rows(asked):
            yield from _answers(chosen, self._objective.logits(self._batch(chosen)))

    def _rows(self, asked: Sequence[Asked]) -> Iterator[list[Asked]]:
        """Samples that are computed together: `_TOKENS` tokens, or as many as the longest has."""
        chosen: list[Asked] = []
        total = longest = 0
        for one in asked:
            total, longest = total + len(one.sample), max(longest, len(one.sample))
            taken = total if self._objective.packs else longest * (len(chosen) + 1)
            if chosen and taken > _TOKENS:
                yield chosen
                chosen, total, longest = [], len(one.sample), len(one.sample)
            chosen.append(one)
        if chosen:
            yield chosen

    def _batch(self, asked: list[Asked]) -> MicroBatch:
        samples = [one.sample for one in asked]
        longest, tokens = max(map(len, samples)), sum(map(len, samples))
        if not self._objective.packs:
            return padded_batch(samples, 0, longest)
        return packed_batch(samples, 0, tokens=rounded(tokens, max(tokens, _TOKENS)), longest=longest)


def _answers(asked: list[Asked], chunks: Iterator[Tensor]) -> Iterator[Found]:
    """Takes the logits of all supervised tokens apart again. W (place, token) pairs are asked for."""
    places_W, tokens_W, ends = _wanted(asked)
    log_probs: list[float] = []
    greedy: list[bool] = []
    first = 0
    for logits_CV in chunks:
        here_W = (places_W >= first) & (places_W < first + len(logits_CV))
        place_W, token_W = (places_W[here_W] - first).to(logits_CV.device), tokens_W[here_W].to(logits_CV.device)
        value_W = logits_CV[place_W, token_W] - logits_CV.logsumexp(dim=-1)[place_W]
        log_probs += value_W.double().tolist()
        greedy += (logits_CV.argmax(dim=-1)[place_W] == token_W).tolist()
        first += len(logits_CV)
    for one, start, end in zip(asked, [0, *ends], ends, strict=False):
        values, best = log_probs[start:end], greedy[start:end]
        yield Found(tuple(values), tuple(best)) if one.candidates else Found((sum(values),), (all(best),))


def _wanted(asked: list[Asked]) -> tuple[Tensor, Tensor, list[int]]:
    """(supervised token by number in the row [W], vocabulary's token [W], where each sample's pairs end)."""
    places: list[int] = []
    tokens: list[int] = []
    ends = []
    seen = 0
    for one in asked:
        learned = one.sample.input_ids[one.sample.supervised].tolist()
        tokens += one.candidates or learned
        places += [seen] * len(one.candidates) if one.candidates else range(seen, seen + len(learned))
        seen += len(learned)
        ends.append(len(tokens))
    return torch.tensor(places), torch.tensor(tokens), ends
