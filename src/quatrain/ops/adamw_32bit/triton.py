"""AdamW with 32-bit state as one Triton kernel over all parameters.

A launch per parameter would leave the GPU waiting for Python hundreds of times a step, and gathering gradients into one
buffer would cost their size in memory again. So the kernel gets a table of addresses, and each row of state looks up
which parameter it belongs to: a search among the parameters' first rows, a dozen loads of cached numbers.

Divisions and roots are the correctly rounded ones, so that the only differences from the reference are multiplications
and additions that the compiler fuses.

Shapes: N rows in a program, C = 256 columns; ``_N`` marks one value per row, ``_NC`` one per element.
"""

# Triton compiles the syntax tree; what its names are to Python tells a type checker nothing.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import math
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import ROW, rows_of

# One row of 256 for each of the four warps that a program has: a block's largest value is found within a warp.
ROWS_PER_PROGRAM = 4

# Pages of paged state differ in these; a kernel compiled for every kind of them would stall the first steps.
VARYING = ["rows", "count", "depth"]


def adamw_32bit(
    params: list[Tensor],
    grads: list[Tensor],
    moment1: Tensor,
    moment2: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """See :func:`quatrain.ops.adamw_32bit.adamw_32bit`; no argument is checked here."""
    rows = len(moment1)
    with torch.cuda.device_of(moment1):
        _adamw_32bit_kernel[(triton.cdiv(rows, ROWS_PER_PROGRAM),)](
            moment1,
            moment2,
            rows,
            *address_table(params, grads),
            *scalars(step, lr, betas, eps, weight_decay),
            N=ROWS_PER_PROGRAM,
            C=ROW,
        )


def address_table(params: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, int, int]:
    """Per parameter its first row, its number of elements and the addresses of its values and of its gradient
    (int64 [count, 4] on their device), then ``count`` and the number of halvings that find one of so many."""
    device = params[0].device
    first_rows = accumulate(map(rows_of, params), initial=0)
    facts = [(r, p.numel(), p.data_ptr(), g.data_ptr()) for r, p, g in zip(first_rows, params, grads, strict=False)]
    table = torch.tensor(facts, dtype=torch.int64, device="cpu")
    table = table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table
    return table, len(params), len(params).bit_length()


def scalars(step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> tuple[float, ...]:
    """The numbers that :func:`update` takes, in its order."""
    beta1, beta2 = betas
    step_size = -lr / (1 - beta1**step)
    return beta1, 1 - beta1, beta2, 1 - beta2, math.sqrt(1 - beta2**step), eps, 1 - lr * weight_decay, step_size


@triton.jit(do_not_specialize=VARYING)
def _adamw_32bit_kernel(
    moments1,
    moments2,
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
    N: tl.constexpr,
    C: tl.constexpr,
):
    row_N = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    live_NC = (row_N < rows)[:, None]
    state_NC = row_N[:, None] * C + tl.arange(0, C)[None, :]
    moment1 = tl.load(moments1 + state_NC, live_NC, other=0.0)
    moment2 = tl.load(moments2 + state_NC, live_NC, other=0.0)
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
    tl.store(moments1 + state_NC, moment1, live_NC)
    tl.store(moments2 + state_NC, moment2, live_NC)


@triton.jit
def locate(row_N, rows, table, count, depth, C: tl.constexpr):
    """Pointers to each element's value and gradient, and which elements exist at all."""
    owner_N = tl.zeros_like(row_N)
    for i in range(depth):
        later_N = owner_N + (1 << (depth - 1 - i))
        exists_N = later_N < count
        first_row_N = tl.load(table + 4 * later_N, exists_N, other=0)
        owner_N = tl.where(exists_N & (first_row_N <= row_N), later_N, owner_N)
    facts_N = table + 4 * owner_N
    place_NC = (row_N - tl.load(facts_N))[:, None] * C + tl.arange(0, C)[None, :]
    owned_NC = (row_N < rows)[:, None] & (place_NC < tl.load(facts_N + 1)[:, None])
    param_N = tl.load(facts_N + 2).to(tl.pointer_type(tl.float32))
    grad_N = tl.load(facts_N + 3).to(tl.pointer_type(tl.float32))
    return param_N[:, None] + place_NC, grad_N[:, None] + place_NC, owned_NC


@triton.jit
def update(
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
):
    """The formulas of reference.py, element by element."""
    moment1 = moment1 * beta1 + grad * one_minus_beta1
    moment2 = moment2 * beta2 + grad * grad * one_minus_beta2
    denominator = tl.div_rn(tl.sqrt_rn(moment2), tl.zeros_like(moment2) + correction2) + eps
    return param * decay + step_size * tl.div_rn(moment1, denominator), moment1, moment2
