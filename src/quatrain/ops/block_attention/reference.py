"""Attention of packed samples in PyTorch, forward and backward: specification, oracle, and what runs on CPUs.

A sample is attended by blocks of queries, each of which only meets the keys up to its end: half of the work that a
causal mask would throw away isn't done, and no more than a block's scores exist at once. Backward computes them again
from the log-sum-exp, so that a model keeps one number per token and head instead of all weights.

Products run in the tensors' own dtype, because CPUs are several times faster in 16 bits than in 32; the softmax between
them is float32, to base 2, because PyTorch's ``exp2`` takes a quarter of the time of its ``exp`` and ``softmax``. Why
not PyTorch's flash kernel for CPUs: its backward is slow (`benchmarks/cpu_attention.py`).

G key/value heads, R query heads of each, S tokens of a sample, padded, Q queries of a block, q = R·Q, E keys they meet.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .segments import Segments

_QUERIES = 128
# The library that runs 16-bit products on CPUs prepares and keeps code for every new length, a gigabyte of it after
# some hundred samples. So samples are padded at their end, where causal attention doesn't look, to lengths that repeat.
_REPEATING = 64
_LOG2_E = math.log2(math.e)


def attention_forward(
    q_TAD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.block_attention.attention_forward`; no argument is checked here."""
    scoring = _Scoring(scale, window, softcap)
    out_TAD = q_TAD.new_empty(q_TAD.shape) if out is None else out
    lse_AT = q_TAD.new_empty(q_TAD.shape[1], q_TAD.shape[0], dtype=torch.float32)
    for sample in _samples(segments):
        k_GSD, v_GSD = _padded(k_TGD[sample]), _padded(v_TGD[sample])
        for block in _blocks(sample, window):
            k_GED, v_GED = k_GSD[:, block.keys], v_GSD[:, block.keys]
            scores_GqE = scoring.scores(block.gather(q_TAD, k_GSD), k_GED, block).float()
            largest_Gq1 = scores_GqE.amax(-1, keepdim=True)
            weights_GqE = scores_GqE.sub_(largest_Gq1).exp2_()
            sum_Gq1 = weights_GqE.sum(-1, keepdim=True)
            block.scatter(torch.bmm(weights_GqE.to(v_GED.dtype), v_GED) / sum_Gq1, out_TAD)
            block.scatter((largest_Gq1 + sum_Gq1.log2_()).div_(_LOG2_E), lse_AT.T.unsqueeze(-1))
    return out_TAD, lse_AT


def attention_backward(
    do_TAD: Tensor,
    q_TAD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    o_TAD: Tensor,
    lse_AT: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """See :func:`quatrain.ops.block_attention.attention_backward`; no argument is checked here.

    ``o_TAD`` isn't looked at: here it costs less to take the sum over dweights · weights than over do · o.
    """
    scoring = _Scoring(scale, window, softcap)
    lse_TA1 = lse_AT.T.unsqueeze(-1) * _LOG2_E
    for sample in _samples(segments):
        k_GSD, v_GSD = _padded(k_TGD[sample]), _padded(v_TGD[sample])
        dk_GSD, dv_GSD = (torch.zeros_like(x, dtype=torch.float32) for x in (k_GSD, v_GSD))
        for block in _blocks(sample, window):
            k_GED, v_GED = k_GSD[:, block.keys], v_GSD[:, block.keys]
            q_GqD, do_GqD, lse_Gq1 = (block.gather(x, k_GSD) for x in (q_TAD, do_TAD, lse_TA1))
            scores_GqE = scoring.scores(q_GqD, k_GED, block)
            weights_GqE = (scores_GqE - lse_Gq1).exp2_().to(q_TAD.dtype)
            dv_GSD[:, block.keys] += torch.bmm(weights_GqE.mT, do_GqD)
            dweights_GqE = torch.bmm(do_GqD, v_GED.mT)
            dscores_GqE = torch.ops.aten._softmax_backward_data(dweights_GqE, weights_GqE, -1, q_TAD.dtype)
            if softcap is not None:
                dscores_GqE *= scoring.slope(scores_GqE)
            dk_GSD[:, block.keys] += torch.bmm(dscores_GqE.mT, q_GqD)
            block.scatter(_scaled_product(dscores_GqE, k_GED, scale), dq)
        size = sample.stop - sample.start
        dk[sample] = dk_GSD[:, :size].transpose(0, 1).mul_(scale)
        dv[sample] = dv_GSD[:, :size].transpose(0, 1)


def _samples(segments: Segments) -> Iterator[slice]:
    """Where each sample lies in the row. Reads the ends, so on a GPU it waits for the device."""
    return (slice(start, end) for start, end in pairwise(segments.ends.tolist()) if end > start)


def _padded(x_SGD: Tensor) -> Tensor:
    """A sample's keys or values [G, S, D], padded with zeros."""
    return F.pad(x_SGD.transpose(0, 1), (0, 0, 0, -x_SGD.shape[0] % _REPEATING)).contiguous()


class _Block(NamedTuple):
    """A block of a sample's queries, and the keys they meet; both count from the sample's first token."""

    sample: slice
    queries: slice
    keys: slice

    def gather(self, x_TAD: Tensor, k_GSD: Tensor) -> Tensor:
        """The queries' rows [G, q, D], padded with zeros, which leave no trace in any gradient."""
        x_SGRD = x_TAD[self.sample][self.queries].unflatten(1, (k_GSD.shape[0], -1))
        missing = self.queries.stop - self.queries.start - x_SGRD.shape[0]
        return F.pad(x_SGRD.permute(1, 2, 0, 3), (0, 0, 0, missing)).flatten(1, 2).contiguous()

    def scatter(self, x_GqD: Tensor, to_TAD: Tensor) -> None:
        """Write rows [G, q, D] to their tokens, less the padding."""
        rows_SAD = to_TAD[self.sample][self.queries]
        x_AQD = x_GqD.reshape(to_TAD.shape[1], -1, x_GqD.shape[-1])
        rows_SAD.copy_(x_AQD[:, : rows_SAD.shape[0]].transpose(0, 1))


def _blocks(sample: slice, window: int | None) -> Iterator[_Block]:
    size = sample.stop - sample.start
    size += -size % _REPEATING
    for start in range(0, size, _QUERIES):
        end = min(start + _QUERIES, size)
        first = 0 if window is None else max(0, start + 1 - window) // _REPEATING * _REPEATING
        yield _Block(sample, slice(start, end), slice(first, end))


class _Scoring(NamedTuple):
    """How a query and a key become a score, and which keys a query sees."""

    scale: float
    window: int | None
    softcap: float | None

    def scores(self, q_GqD: Tensor, k_GED: Tensor, block: _Block) -> Tensor:
        """log₂ e times the scores [G, q, E], −∞ where a query doesn't see a key."""
        if self.softcap is None:
            scores_GqE = _scaled_product(q_GqD, k_GED.mT, self.scale * _LOG2_E)
        else:
            scores_GqE = _scaled_product(q_GqD, k_GED.mT, self.scale / self.softcap).float()
            scores_GqE.tanh_().mul_(self.softcap * _LOG2_E)
        rows = block.queries.stop - block.queries.start
        # Without a window only the block's own keys can lie ahead of a query.
        columns = rows if self.window is None else k_GED.shape[1]
        everything_QE = scores_GqE.new_full((rows, columns), float("-inf"))
        hidden_QE = everything_QE.triu(columns - rows + 1)
        if self.window is not None:
            hidden_QE += everything_QE.tril(columns - rows - self.window)
        scores_GqE.unflatten(1, (-1, rows))[..., -columns:].add_(hidden_QE)
        return scores_GqE

    def slope(self, scores_GqE: Tensor) -> Tensor:
        """The derivative of soft-capping where it yields these scores: 1 − tanh². Hidden keys get 0."""
        assert self.softcap is not None
        tanh_GqE = (scores_GqE / (self.softcap * _LOG2_E)).clamp_(-1)
        return 1 - tanh_GqE.square_()


def _scaled_product(x_GND: Tensor, y_GDM: Tensor, factor: float) -> Tensor:
    """factor · x y, the factor applied before the product is rounded."""
    return torch.baddbmm(x_GND.new_empty(1, 1, 1), x_GND, y_GDM, beta=0, alpha=factor)
