"""Attention of one sample on a CPU in bfloat16, forward and backward: blocks of queries against PyTorch's kernel."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.case import QUATRAIN, TORCH, TWO_CORES, Case, Contender, Kind, Play, Row, Rows, Setting, WrongResult
from benchmarks.gate import relative_error
from benchmarks.timing import step_ms

KIND = Kind(
    title="Attention of one sample on a CPU, forward and backward",
    note="bfloat16, 9 query heads over 3 key/value heads of 64, as in SmolLM2-135M, on two cores.",
)
LENGTHS, SCALE, REPEATS = (64, 128, 256, 512, 1024), 0.125, 15
TOLERANCE = 1e-2
"""Of output and gradients by norm, against float64: bfloat16 costs 0.2 to 0.7 %."""

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def quatrain(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from quatrain.ops.packed_attention import blockwise

    return blockwise.attend(q, k, v, scale)


def pytorch(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from quatrain.ops.packed_attention import reference

    return reference.attend(q, k, v, scale)


def measure(attend: Attend, setting: Setting) -> Rows:
    rows = {}
    for length in LENGTHS:
        qkv = [torch.randn(heads, length, 64).bfloat16().requires_grad_() for heads in (9, 3, 3)]
        upstream = torch.randn(9, length, 64).bfloat16()
        errors = _errors(attend, qkv, upstream)
        one = partial(_forward_backward, attend, qkv, upstream)
        one()
        samples = [step_ms(one, setting.device) for _ in range(setting.repetitions(REPEATS))]
        rows[f"{length} tokens"] = Row(samples_ms=samples, values={"errors_out_q_k_v": errors})
    return rows


def _errors(attend: Attend, qkv: list[Tensor], upstream: Tensor) -> list[float]:
    wide = [x.detach().double().requires_grad_() for x in qkv]
    truth = _forward_backward(pytorch, wide, upstream.double())
    found = _forward_backward(attend, qkv, upstream)
    errors = [relative_error(f, t) for f, t in zip(found, truth, strict=True)]
    if not max(errors) <= TOLERANCE:
        raise WrongResult(f"{qkv[0].shape[1]} tokens: relative errors {errors} against float64 (at most {TOLERANCE})")
    return [float(f"{error:.2e}") for error in errors]


def _forward_backward(attend: Attend, qkv: list[Tensor], upstream: Tensor) -> list[Tensor]:
    q, k, v = qkv
    out = attend(q, k, v, SCALE)
    return [out.detach(), *torch.autograd.grad(out, qkv, upstream)]


CONTENDERS: dict[Contender, Attend] = {TORCH: pytorch, QUATRAIN: quatrain}

CASES = (
    Case(
        name="cpu_attention",
        kind=KIND,
        title="",
        contenders={who: Play(partial(measure, attend)) for who, attend in CONTENDERS.items()},
        device="cpu",
        options={"scale": SCALE, "heads": [9, 3, 3], "head_size": 64},
        environment=TWO_CORES,
    ),
)
