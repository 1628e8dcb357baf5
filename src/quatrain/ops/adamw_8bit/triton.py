"""AdamW with 8-bit state as one Triton kernel over all parameters.

It is the 32-bit kernel between two look-ups: codes become moments, and after the update moments become codes, all in
registers. Per element it reads the gradient, the parameter and two bytes of state, and writes the parameter and two
bytes: 16 bytes in all, the least that the update can move.

Shapes: N rows in a program, C = 256 columns; ``_N`` marks one value per row, ``_NC`` one per element.
"""

# Triton compiles the syntax tree; what its names are to Python tells a type checker nothing.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..adamw_32bit.rows import ROW
from ..adamw_32bit.triton import ROWS_PER_PROGRAM, VARYING, address_table, locate, scalars, update
from ..codebooks import dynamic_map
from .rounding import rounding_table

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
    with torch.cuda.device_of(scales1):
        _adamw_8bit_kernel[(triton.cdiv(rows, ROWS_PER_PROGRAM),)](
            codes1,
            scales1,
            codes2,
            scales2,
            dynamic_map(True, device),
            dynamic_map(False, device),
            rounding_table(True, device),
            rounding_table(False, device),
            rows,
            *address_table(params, grads),
            *scalars(step, lr, betas, eps, weight_decay),
            SMALLEST_NORMAL=SMALLEST_NORMAL,
            N=ROWS_PER_PROGRAM,
            C=ROW,
        )


@triton.jit(do_not_specialize=VARYING)
def _adamw_8bit_kernel(
    codes1,
    scales1,
    codes2,
    scales2,
    values1,
    values2,
    rounding1,
    rounding2,
    rows,
    table,
    count,
    depth,
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
    state_NC = row_N[:, None] * C + tl.arange(0, C)[None, :]
    moment1 = _expand(codes1, scales1, values1, row_N, state_NC, live_N)
    moment2 = _expand(codes2, scales2, values2, row_N, state_NC, live_N)
    param_NC, grad_NC, owned_NC = locate(row_N, rows, table, count, depth, C)
    param, grad = tl.load(param_NC, owned_NC, other=0.0), tl.load(grad_NC, owned_NC, other=0.0)
    param, moment1, moment2 = update(
        param,
        grad,
        moment1,
        moment2,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        correction2,
        eps,
        decay,
        step_size,
    )
    tl.store(param_NC, param, owned_NC)
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
