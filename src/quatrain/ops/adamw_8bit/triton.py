"""AdamW with 8-bit state as one Triton kernel over all parameters.

A launch per parameter would leave the GPU waiting for Python hundreds of times a step, and gathering gradients into
one buffer would cost their size in memory again. So the kernel gets a table of addresses and finds by itself which
parameter a row of state belongs to. Per element it reads the gradient, the parameter and two bytes of state, and writes
the parameter and two bytes: 16 bytes in all, the least that the update can move.

Divisions and roots are the correctly rounded ones, so that the only differences from the reference are multiplications
and additions that the compiler fuses.

Shapes: N rows in a program, 256 columns; ``_N`` marks one value per row, ``_NC`` one per element.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..adamw_32bit.rows import ROW, rows_of
from ..codebooks import dynamic_map
from .rounding import rounding_table

# One row of 256 for each of the four warps: a block's largest value is found within a warp.
ROWS_PER_PROGRAM = 4
SMALLEST_NORMAL = torch.finfo(torch.float32).smallest_normal


def adamw_8bit(
    params: list[Tensor],
    grads: list[Tensor],
    codes1: Tensor,
    scales1: Tensor,
    codes2: Tensor,
    scales2: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """See :func:`quatrain.ops.adamw_8bit.adamw_8bit`; no argument is checked here."""
    rows, device = len(scales1), scales1.device
    owners, table = _addresses(params, grads, rows)
    beta1, beta2 = betas
    _adamw_8bit_kernel[(triton.cdiv(rows, ROWS_PER_PROGRAM),)](
        owners,
        table,
        codes1,
        scales1,
        codes2,
        scales2,
        dynamic_map(True, device),
        dynamic_map(False, device),
        rounding_table(True, device),
        rounding_table(False, device),
        rows,
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        math.sqrt(1 - beta2**step),
        eps,
        1 - lr * weight_decay,
        -lr / (1 - beta1**step),
        SMALLEST_NORMAL=SMALLEST_NORMAL,
        N=ROWS_PER_PROGRAM,
        C=ROW,
    )


def _addresses(params: list[Tensor], grads: list[Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """Which parameter owns each row (int64 [rows]), and per parameter (int64 [count, 4]): the addresses of its values
    and of its gradient, its first row, its number of elements."""
    device = params[0].device
    counts = [rows_of(p) for p in params]
    first = [0]
    for count in counts[:-1]:
        first.append(first[-1] + count)
    facts = [
        (p.data_ptr(), g.data_ptr(), row, p.numel(), count)
        for p, g, row, count in zip(params, grads, first, counts, strict=True)
    ]
    host = torch.tensor(facts, dtype=torch.int64, device="cpu")
    on_device = (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)
    owners = torch.repeat_interleave(on_device[:, 4].contiguous(), output_size=rows)
    return owners, on_device[:, :4].contiguous()


@triton.jit
def _adamw_8bit_kernel(
    owners,
    table,
    codes1,
    scales1,
    codes2,
    scales2,
    values1,
    values2,
    rounding1,
    rounding2,
    rows,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    correction2,
    eps,
    decay,
    step_size,
    SMALLEST_NORMAL: tl.constexpr,
    N: tl.constexpr,
    C: tl.constexpr,
):
    row_N = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    live_N = row_N < rows
    facts_N = table + 4 * tl.load(owners + row_N, live_N, other=0)
    param_N = tl.load(facts_N).to(tl.pointer_type(tl.float32))
    grad_N = tl.load(facts_N + 1).to(tl.pointer_type(tl.float32))
    column_C = tl.arange(0, C)
    place_NC = (row_N - tl.load(facts_N + 2))[:, None] * C + column_C[None, :]
    owned_NC = live_N[:, None] & (place_NC < tl.load(facts_N + 3)[:, None])
    state_NC = row_N[:, None] * C + column_C[None, :]

    grad = tl.load(grad_N[:, None] + place_NC, owned_NC, other=0.0)
    param = tl.load(param_N[:, None] + place_NC, owned_NC, other=0.0)
    moment1 = _expand(codes1, scales1, values1, row_N, state_NC, live_N)
    moment2 = _expand(codes2, scales2, values2, row_N, state_NC, live_N)

    moment1 = moment1 * beta1 + grad * one_minus_beta1
    moment2 = moment2 * beta2 + grad * grad * one_minus_beta2
    denominator = tl.div_rn(tl.sqrt_rn(moment2), tl.zeros_like(moment2) + correction2) + eps
    param = param * decay + step_size * tl.div_rn(moment1, denominator)
    tl.store(param_N[:, None] + place_NC, param, owned_NC)

    _compress(moment1, codes1, scales1, rounding1, row_N, state_NC, live_N, SMALLEST_NORMAL)
    _compress(moment2, codes2, scales2, rounding2, row_N, state_NC, live_N, SMALLEST_NORMAL)


@triton.jit
def _expand(codes, scales, values, row_N, state_NC, live_N):
    code = tl.load(codes + state_NC, live_N[:, None], other=0).to(tl.int32)
    scale_N = tl.load(scales + row_N, live_N, other=0.0)
    return tl.load(values + code) * scale_N[:, None]


@triton.jit
def _compress(moment, codes, scales, rounding, row_N, state_NC, live_N, SMALLEST_NORMAL: tl.constexpr):
    """The look-up of rounding.py; the order of the bits is harmless where there is no sign."""
    scale_N = tl.max(tl.abs(moment), axis=1)
    tl.store(scales + row_N, scale_N, live_N)
    reciprocal_N = tl.div_rn(tl.zeros_like(scale_N) + 1.0, tl.maximum(scale_N, SMALLEST_NORMAL))
    bits = (moment * reciprocal_N[:, None]).to(tl.int32, bitcast=True)
    ordinal = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    entry = tl.load(rounding + ((ordinal >> 16) & 0xFFFF))
    tl.store(codes + state_NC, ((entry + ordinal) >> 16).to(tl.uint8), live_N[:, None])
