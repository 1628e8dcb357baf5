"""Causal attention of one sample on a CPU in 16 bits, by blocks of queries, with the weights kept for backward.

PyTorch's flash kernel for CPUs saves memory that a sample of some hundred tokens doesn't need, and pays with a slow
backward; `benchmarks/cpu_attention.py` has both times and both errors. The parts are batched products and PyTorch's
softmax, forward and backward, which run near the processor's speed; a block of queries only meets the keys up to its
end, so half of the work that a causal mask would throw away isn't done.

G key/value heads, R query heads of each, S tokens, D size of a head, Q queries of a block, E keys up to its end.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_QUERIES = 128
# The library that runs 16-bit products prepares and keeps code for every new length, a gigabyte of it after some
# hundred samples. So samples are padded at their end, where causal attention doesn't look, to lengths that repeat.
_REPEATING = 64
# Weights are kept for backward: 2 bytes × heads × S² / 2. Beyond this length the flash kernel's thrift wins.
_LONGEST = 1024


def can_run(q_HSD: Tensor, *, window: int | None, softcap: float | None, dropout: float) -> bool:
    """Whether this sample is a case for this kernel: on a CPU, in 16 bits, not long, plainly causal."""
    plain = softcap is None and not dropout and (window is None or window >= q_HSD.shape[1])
    on_cpu = q_HSD.device.type == "cpu" and q_HSD.dtype in (torch.bfloat16, torch.float16)
    return plain and on_cpu and q_HSD.shape[1] <= _LONGEST


def attend(q_HSD: Tensor, k_GSD: Tensor, v_GSD: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ) v of one sample, causal: [H, S, D] with [G, S, D] → [H, S, D]."""
    size = q_HSD.shape[1]
    behind = (0, 0, 0, -size % _REPEATING)
    q_HSD, k_GSD, v_GSD = (F.pad(x, behind) if behind[-1] else x for x in (q_HSD, k_GSD, v_GSD))
    return _BlockwiseAttention.apply(q_HSD, k_GSD, v_GSD, scale)[:, :size]  # pyright: ignore


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_HSD: Tensor, k_GSD: Tensor, v_GSD: Tensor, scale: float) -> Tensor:
        groups, size = k_GSD.shape[0], q_HSD.shape[1]
        q_GRSD = (q_HSD * scale).unflatten(0, (groups, -1))
        out_GRSD = q_GRSD.new_empty(*q_GRSD.shape[:3], v_GSD.shape[-1])
        hidden_QQ = torch.ones(_QUERIES, _QUERIES, dtype=torch.bool).triu(1)
        weights = []
        for start, end in _blocks(size):
            rows = end - start
            scores = torch.bmm(q_GRSD[:, :, start:end].flatten(1, 2), k_GSD[:, :end].mT)
            own = scores.unflatten(1, (-1, rows))[..., start:]
            own.masked_fill_(hidden_QQ[:rows, :rows], float("-inf"))
            weights_GqE = scores.softmax(-1)
            out_GRSD[:, :, start:end] = torch.bmm(weights_GqE, v_GSD[:, :end]).unflatten(1, (-1, rows))
            weights.append(weights_GqE)
        ctx.save_for_backward(q_GRSD, k_GSD, v_GSD, *weights)
        ctx.scale = scale
        return out_GRSD.flatten(0, 1)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        q_GRSD, k_GSD, v_GSD, *weights = ctx.saved_tensors
        dout_GRSD = grads[0].unflatten(0, q_GRSD.shape[:2])
        dq_GRSD = torch.empty_like(q_GRSD)
        dk_GSD, dv_GSD = (torch.zeros_like(x, dtype=torch.float32) for x in (k_GSD, v_GSD))
        for (start, end), weights_GqE in zip(_blocks(q_GRSD.shape[2]), weights, strict=True):
            q_GqD, dout_GqD = (x[:, :, start:end].flatten(1, 2) for x in (q_GRSD, dout_GRSD))
            dweights_GqE = torch.bmm(dout_GqD, v_GSD[:, :end].mT)
            dscores_GqE = torch.ops.aten._softmax_backward_data(dweights_GqE, weights_GqE, -1, weights_GqE.dtype)
            dv_GSD[:, :end] += torch.bmm(weights_GqE.mT, dout_GqD)
            dk_GSD[:, :end] += torch.bmm(dscores_GqE.mT, q_GqD)
            dq_GRSD[:, :, start:end] = torch.bmm(dscores_GqE, k_GSD[:, :end]).unflatten(1, (-1, end - start))
        return (dq_GRSD * ctx.scale).flatten(0, 1), dk_GSD.to(k_GSD.dtype), dv_GSD.to(v_GSD.dtype), None


def _blocks(size: int) -> list[tuple[int, int]]:
    return [(start, min(start + _QUERIES, size)) for start in range(0, size, _QUERIES)]
