"""Attention of packed samples in PyTorch, forward and backward: specification, oracle, and what runs on CPUs.

A sample is attended by blocks of queries, each of which only meets the keys up to its end: half of the work that a
causal mask would throw away isn't done, and no more than a block's scores exist at once. Backward computes them again
from the log-sum-exp, so that a model keeps one number per token and head instead of all weights.

Products run in the tensors' own dtype, because CPUs are several times faster in 16 bits than in 32; the softmax between
them is float32. Why not PyTorch's flash kernel for CPUs: its backward is slow (`benchmarks/cpu_attention.py`).

G key/value heads, R query heads of each, S tokens of a sample (padded), Q queries of a block, q = R·Q, E keys they meet.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .segments import Segments

_QUERIES = 128
# The library that runs 16-bit products on CPUs prepares and keeps code for every new length, a gigabyte of it after
# some hundred samples. So samples are padded at their end, where causal attention doesn't look, to lengths that repeat.
_REPEATING = 64


class _Block(NamedTuple):
    queries: slice
    keys: slice


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
    groups = k_TGD.shape[1]
    out_TAD = q_TAD.new_empty(q_TAD.shape) if out is None else out
    lse_AT = q_TAD.new_empty(q_TAD.shape[1], q_TAD.shape[0], dtype=torch.float32)
    for sample in _samples(segments):
        q_GRSD, k_GSD, v_GSD = (_by_head(x[sample], groups) for x in (q_TAD, k_TGD, v_TGD))
        k_GSD, v_GSD = k_GSD[:, 0], v_GSD[:, 0]
        for block in _blocks(sample, window):
            rows = block.queries
            scores_GqE = _scores(q_GRSD[:, :, rows].flatten(1, 2), k_GSD[:, block.keys], block, scale, window, softcap)
            weights_GqE = scores_GqE.softmax(-1, dtype=torch.float32)
            o_GqD = torch.bmm(weights_GqE.to(v_GSD.dtype), v_GSD[:, block.keys])
            # The largest weight is exp(largest score − lse).
            lse_Gq1 = scores_GqE.amax(-1, keepdim=True) - weights_GqE.amax(-1, keepdim=True).log_()
            _put(o_GqD, out_TAD, sample, rows)
            _put(lse_Gq1, lse_AT.T.unsqueeze(-1), sample, rows)
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
    """See :func:`quatrain.ops.block_attention.attention_backward`; no argument is checked here."""
    groups = k_TGD.shape[1]
    delta_TA1 = (do_TAD.float() * o_TAD).sum(-1, keepdim=True)
    per_query = (q_TAD, do_TAD, lse_AT.T.unsqueeze(-1), delta_TA1)
    for sample in _samples(segments):
        q_GRSD, do_GRSD, lse_GRS1, delta_GRS1 = (_by_head(x[sample], groups) for x in per_query)
        k_GSD, v_GSD = (_by_head(x[sample], groups)[:, 0] for x in (k_TGD, v_TGD))
        dk_GSD, dv_GSD = (torch.zeros_like(x, dtype=torch.float32) for x in (k_GSD, v_GSD))
        for block in _blocks(sample, window):
            rows, keys = block
            q_GqD, do_GqD, lse_Gq1, delta_Gq1 = (
                x[:, :, rows].flatten(1, 2) for x in (q_GRSD, do_GRSD, lse_GRS1, delta_GRS1)
            )
            scores_GqE = _scores(q_GqD, k_GSD[:, keys], block, scale, window, softcap)
            weights_GqE = (scores_GqE - lse_Gq1).exp_()
            dv_GSD[:, keys] += torch.bmm(weights_GqE.to(q_TAD.dtype).mT, do_GqD)
            dscores_GqE = (torch.bmm(do_GqD, v_GSD[:, keys].mT) - delta_Gq1).mul_(weights_GqE)
            if softcap is not None:
                dscores_GqE *= 1 - (scores_GqE.masked_fill_(scores_GqE.isinf(), 0) / softcap).square_()
            dscores_GqE = dscores_GqE.mul_(scale).to(q_TAD.dtype)
            dk_GSD[:, keys] += torch.bmm(dscores_GqE.mT, q_GqD)
            _put(torch.bmm(dscores_GqE, k_GSD[:, keys]), dq, sample, rows)
        for grad, grad_GSD in ((dk, dk_GSD), (dv, dv_GSD)):
            grad[sample] = grad_GSD[:, : sample.stop - sample.start].transpose(0, 1)


def _samples(segments: Segments) -> Iterator[slice]:
    """Where each sample lies in the row. Reads the ends, so on a GPU it waits for the device."""
    ends = segments.ends.tolist()
    return (slice(start, end) for start, end in zip(ends, ends[1:], strict=False) if end > start)


def _by_head(x_SAD: Tensor, groups: int) -> Tensor:
    """[S, A, D] as [G, R, S', D], padded with zeros: rows that neither see nor are seen, and whose gradient is zero."""
    size = x_SAD.shape[0]
    x_SGRD = x_SAD.unflatten(1, (groups, -1))
    x_GRSD = x_SGRD.new_zeros(*x_SGRD.shape[1:3], size + -size % _REPEATING, x_SGRD.shape[-1])
    x_GRSD[:, :, :size] = x_SGRD.permute(1, 2, 0, 3)
    return x_GRSD


def _blocks(sample: slice, window: int | None) -> Iterator[_Block]:
    size = sample.stop - sample.start
    size += -size % _REPEATING
    for start in range(0, size, _QUERIES):
        end = min(start + _QUERIES, size)
        first = 0 if window is None else max(0, start + 1 - window) // _REPEATING * _REPEATING
        yield _Block(slice(start, end), slice(first, end))


def _scores(
    q_GqD: Tensor, k_GED: Tensor, block: _Block, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """Scores [G, q, E], −∞ where the query doesn't see the key."""
    scores_GqE = torch.baddbmm(q_GqD.new_empty(1, 1, 1), q_GqD, k_GED.mT, beta=0, alpha=scale)
    if softcap is not None:
        scores_GqE = (scores_GqE.float() / softcap).tanh_() * softcap
    query_Q1 = torch.arange(block.queries.start, block.queries.stop, device=q_GqD.device).unsqueeze(1)
    # Without a window only the block's own keys can lie ahead of a query.
    seen_from = block.queries.start if window is None else block.keys.start
    key_E = torch.arange(seen_from, block.keys.stop, device=q_GqD.device)
    hidden_QE = key_E > query_Q1
    if window is not None:
        hidden_QE |= key_E <= query_Q1 - window
    scores_GRQE = scores_GqE.unflatten(1, (-1, len(query_Q1)))
    scores_GRQE[..., seen_from - block.keys.start :].masked_fill_(hidden_QE, float("-inf"))
    return scores_GqE


def _put(block_GqD: Tensor, row_TAD: Tensor, sample: slice, queries: slice) -> None:
    """Write a block of queries of a sample into its place in the row, less the padding."""
    start, end = sample.start + queries.start, min(sample.start + queries.stop, sample.stop)
    block_GRQD = block_GqD.unflatten(1, (-1, queries.stop - queries.start))
    row_TAD[start:end] = block_GRQD.flatten(0, 1)[:, : end - start].transpose(0, 1)
