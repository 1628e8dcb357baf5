"""Attention of one new token per sequence over a cache, as two GPU kernels.

At batch 1 a sequence has only as many key/value heads as a card has a sixteenth of its processors, so the cache is cut
into runs, each attended by a program of its own, and a second kernel puts the runs' results together by their
log-sum-exps. All query heads that share a key/value head are attended by one program, which so reads the cache once.
Every program normalizes and rotates the queries for itself: that costs less than a launch. The first run's program also
has the new token: it rotates its key, stores key and value, and takes them from its registers, so that no program reads
what another writes.

Runs are cut by the length that a sequence has, not by the room it has, and an empty run has weight zero.

Legend: ``R`` query heads of a key/value head, padded to 16 for the tensor cores, ``D`` head size padded to a power of
two, ``T`` tokens of a tile, ``S`` runs, padded to a power of two where they are put together.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportOptionalOperand=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_BYTES = 1 << 14
"""Of keys, and as many of values: two tiles of each, one in use and one on its way, fit into the shared memory of any
card."""
PROGRAMS = 256
"""About as many programs as fill a large card; more runs than that only cost."""


def cache_attention(
    qkv_BW: Tensor,
    keys_BCGD: Tensor,
    values_BCGD: Tensor,
    lengths_B: Tensor,
    cos_PE: Tensor,
    sin_PE: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    norms: Any,
    out: Tensor,
    runs: int | None = None,
) -> None:
    """See :func:`quatrain.ops.cache_attention.cache_attention`; no argument is checked here.

    ``runs`` is how many programs share a sequence's cache; by default as many as the card wants.
    """
    batch, capacity, groups, size = keys_BCGD.shape
    heads = qkv_BW.shape[1] // size - 2 * groups
    padded = triton.next_power_of_2(size)
    tile = max(16, TILE_BYTES // (padded * qkv_BW.element_size()))
    if runs is None:
        runs = max(1, min(PROGRAMS // (batch * groups), triton.cdiv(capacity, tile)))
    parts = torch.empty(runs, batch, heads, size, dtype=torch.float32, device=qkv_BW.device) if runs > 1 else out
    sums = torch.empty(runs, batch, heads, dtype=torch.float32, device=qkv_BW.device)
    with torch.cuda.device_of(qkv_BW):
        _attend[(batch * groups, runs)](
            qkv_BW,
            keys_BCGD,
            values_BCGD,
            lengths_B,
            cos_PE,
            sin_PE,
            None if norms is None else norms.q_D,
            None if norms is None else norms.k_D,
            parts,
            sums,
            qkv_BW.stride(0),
            out.stride(0) if runs == 1 else heads * size,
            capacity,
            batch,
            runs,
            scale,
            0.0 if norms is None else norms.eps,
            0.0 if norms is None else norms.offset,
            WINDOW=window,
            SOFTCAP=softcap,
            SHARE=heads // groups,
            GROUPS=groups,
            SIZE=size,
            HALF=cos_PE.shape[1],
            R=max(16, triton.next_power_of_2(heads // groups)),
            D=max(16, padded),
            T=tile,
            num_stages=2,
        )
        if runs > 1:
            _combine[(batch, heads)](
                parts, sums, out, out.stride(0), batch, heads, runs, SIZE=size, D=padded, S=triton.next_power_of_2(runs)
            )


@triton.jit
def _rotated(
    ptr,
    weight_ptr,
    cos_1D,
    sin_1D,
    eps,
    offset,
    mask_RD,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
):
    """Rows [R, D] of heads that lie side by side from ``ptr`` on, normalized if there is a weight, and rotated."""
    row_R1 = tl.arange(0, R)[:, None] * SIZE
    column_1D = tl.arange(0, D)[None, :]
    # Halves turn against each other: each element meets the one half a width away.
    partner_1D = tl.where(column_1D < HALF, column_1D + HALF, tl.where(column_1D < 2 * HALF, column_1D - HALF, 0))
    x_RD = tl.load(ptr + row_R1 + column_1D, mask_RD, other=0.0).to(tl.float32)
    y_RD = tl.load(ptr + row_R1 + partner_1D, mask_RD, other=0.0).to(tl.float32)
    if weight_ptr is not None:
        rstd_R1 = tl.rsqrt(tl.sum(x_RD * x_RD, axis=1, keep_dims=True) / SIZE + eps)
        x_RD *= rstd_R1 * (tl.load(weight_ptr + column_1D, column_1D < SIZE, other=0.0).to(tl.float32) + offset)
        y_RD *= rstd_R1 * (tl.load(weight_ptr + partner_1D, column_1D < SIZE, other=0.0).to(tl.float32) + offset)
    return x_RD * cos_1D + y_RD * sin_1D


@triton.jit
def _attend(
    qkv_ptr,
    keys_ptr,
    values_ptr,
    lengths_ptr,
    cos_ptr,
    sin_ptr,
    q_weight_ptr,
    k_weight_ptr,
    parts_ptr,
    sums_ptr,
    qkv_stride,
    parts_stride,
    capacity,
    batch,
    runs,
    scale,
    eps,
    offset,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SHARE: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    T: tl.constexpr,
):
    b = (tl.program_id(0) // GROUPS).to(tl.int64)
    g = tl.program_id(0) % GROUPS
    run = tl.program_id(1)
    dtype: tl.constexpr = keys_ptr.dtype.element_ty
    head_R, column_D, token_T = tl.arange(0, R), tl.arange(0, D), tl.arange(0, T)
    mask_RD = (head_R < SHARE)[:, None] & (column_D < SIZE)[None, :]

    length = tl.load(lengths_ptr + b)
    angle_1D = length * HALF + (column_D % HALF)[None, :]
    turns_1D = (column_D < 2 * HALF)[None, :]
    cos_1D = tl.load(cos_ptr + angle_1D, turns_1D, other=1.0)
    sin_1D = tl.load(sin_ptr + angle_1D, turns_1D, other=0.0)
    sin_1D = tl.where((column_D < HALF)[None, :], -sin_1D, sin_1D)
    q_ptr = qkv_ptr + b * qkv_stride + g * SHARE * SIZE
    q_RD = _rotated(q_ptr, q_weight_ptr, cos_1D, sin_1D, eps, offset, mask_RD, SIZE, HALF, R, D).to(dtype)

    first = tl.zeros((), tl.int64)
    if WINDOW is not None:
        first = tl.maximum(length + 1 - WINDOW, 0)
    per_run = tl.cdiv(tl.cdiv(length - first, runs), T) * T
    begin = first + run * per_run
    end = tl.minimum(begin + per_run, length)

    largest_R = tl.full((R,), float("-inf"), tl.float32)
    sum_R = tl.zeros((R,), tl.float32)
    o_RD = tl.zeros((R, D), tl.float32)
    if run == 0:
        mask_1D = (column_D < SIZE)[None, :]
        k_ptr = qkv_ptr + b * qkv_stride + (GROUPS * SHARE + g) * SIZE
        k_1D = _rotated(k_ptr, k_weight_ptr, cos_1D, sin_1D, eps, offset, mask_1D, SIZE, HALF, 1, D).to(dtype)
        v_1D = tl.load(k_ptr + GROUPS * SIZE + column_D[None, :], mask_1D, other=0.0)
        place = ((b * capacity + length) * GROUPS + g) * SIZE + column_D[None, :]
        tl.store(keys_ptr + place, k_1D, mask_1D)
        tl.store(values_ptr + place, v_1D, mask_1D)
        largest_R = _capped(tl.sum(q_RD.to(tl.float32) * k_1D.to(tl.float32), axis=1) * scale, SOFTCAP)
        sum_R = tl.full((R,), 1.0, tl.float32)
        o_RD += v_1D.to(tl.float32)

    for start in range(begin, end, T):
        token_T1 = (start + token_T)[:, None]
        place_TD = ((b * capacity + token_T1) * GROUPS + g) * SIZE + column_D[None, :]
        mask_TD = (token_T1 < end) & (column_D < SIZE)[None, :]
        k_TD = tl.load(keys_ptr + place_TD, mask_TD, other=0.0)
        v_TD = tl.load(values_ptr + place_TD, mask_TD, other=0.0)
        scores_RT = _capped(tl.dot(q_RD, tl.trans(k_TD), input_precision="ieee") * scale, SOFTCAP)
        scores_RT = tl.where((start + token_T < end)[None, :], scores_RT, float("-inf"))
        new_R = tl.maximum(largest_R, tl.max(scores_RT, axis=1))
        weights_RT = tl.exp(scores_RT - new_R[:, None])
        shrink_R = tl.exp(largest_R - new_R)
        sum_R = sum_R * shrink_R + tl.sum(weights_RT, axis=1)
        o_RD = o_RD * shrink_R[:, None] + tl.dot(weights_RT.to(dtype), v_TD, input_precision="ieee")
        largest_R = new_R

    head = g * SHARE + head_R
    o_RD /= tl.where(sum_R == 0.0, 1.0, sum_R)[:, None]
    part_RD = (run * batch + b) * parts_stride + head[:, None] * SIZE + column_D[None, :]
    tl.store(parts_ptr + part_RD, o_RD.to(parts_ptr.dtype.element_ty), mask_RD)
    log_R = tl.where(sum_R == 0.0, float("-inf"), largest_R + tl.log(tl.where(sum_R == 0.0, 1.0, sum_R)))
    tl.store(sums_ptr + (run * batch + b) * (GROUPS * SHARE) + head, log_R, head_R < SHARE)


@triton.jit
def _capped(scores, SOFTCAP: tl.constexpr):
    if SOFTCAP is not None:
        # tanh by the exponential of a negative number, which can't overflow.
        decay = tl.exp(-2.0 * tl.abs(scores) / SOFTCAP)
        scores = tl.where(scores < 0, -SOFTCAP, SOFTCAP) * (1.0 - decay) / (1.0 + decay)
    return scores


@triton.jit
def _combine(
    parts_ptr,
    sums_ptr,
    out_ptr,
    out_stride,
    batch,
    heads,
    runs,
    SIZE: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
):
    b, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    run_S, column_D = tl.arange(0, S), tl.arange(0, D)
    row_S = (run_S * batch + b) * heads + head
    log_S = tl.load(sums_ptr + row_S, run_S < runs, other=float("-inf"))
    weight_S = tl.exp(log_S - tl.max(log_S, axis=0))
    mask_SD = (run_S < runs)[:, None] & (column_D < SIZE)[None, :]
    part_SD = tl.load(parts_ptr + row_S[:, None] * SIZE + column_D[None, :], mask_SD, other=0.0)
    o_D = tl.sum(part_SD * weight_S[:, None], axis=0) / tl.sum(weight_S, axis=0)
    tl.store(out_ptr + b * out_stride + head * SIZE + column_D, o_D.to(out_ptr.dtype.element_ty), column_D < SIZE)
