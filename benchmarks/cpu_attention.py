"""Attention of one sample on a CPU in bfloat16, forward and backward: blocks of queries against PyTorch's flash kernel.

9 query heads over 3 key/value heads of 64, the shape of SmolLM2-135M. Each result is compared with float64 first.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from quatrain.ops.packed_attention import blockwise, reference

LENGTHS, SCALE, REPEATS = (64, 128, 256, 512, 1024), 0.125, 15
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
CONTESTANTS: dict[str, Attend] = {"quatrain": blockwise.attend, "torch": reference.attend}


def run() -> dict:
    """Median milliseconds and relative errors, by length and contestant."""
    rows = {}
    for length in LENGTHS:
        qkv = [torch.randn(heads, length, 64).bfloat16().requires_grad_() for heads in (9, 3, 3)]
        upstream = torch.randn(9, length, 64).bfloat16()
        wide = [x.detach().double().requires_grad_() for x in qkv]
        truth = _forward_backward(reference.attend, wide, upstream.double())
        rows[str(length)] = {name: _measure(attend, qkv, upstream, truth) for name, attend in CONTESTANTS.items()}
        print(" ", length, {name: row["ms"] for name, row in rows[str(length)].items()}, flush=True)
    return {"case": "Attention of one sample in bfloat16, forward and backward, on a CPU", "rows": rows}


def _forward_backward(attend: Attend, qkv: list[Tensor], upstream: Tensor) -> list[Tensor]:
    out = attend(*qkv, SCALE)
    return [out.detach(), *torch.autograd.grad(out, qkv, upstream)]


def _measure(attend: Attend, qkv: list[Tensor], upstream: Tensor, truth: list[Tensor]) -> dict:
    got = _forward_backward(attend, qkv, upstream)
    errors = [((g.double() - t).norm() / t.norm()).item() for g, t in zip(got, truth, strict=True)]
    if max(errors) > 1e-2:
        raise SystemExit(f"attention is wrong: relative errors {errors}")
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        _forward_backward(attend, qkv, upstream)
        seconds.append(time.perf_counter() - began)
    return {"ms": round(statistics.median(seconds) * 1e3, 2), "errors_out_q_k_v": [round(e, 4) for e in errors]}
