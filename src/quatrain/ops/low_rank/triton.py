"""LoRA's thin products on tensor cores, with the masks of dropout drawn in registers.

All three are bound by the memory of their wide side, so each program reads a tile of it once, and serves every adapter
of the group from it: mask, product, next adapter.

Legend: ``T`` tokens, ``K`` columns of the wide side, ``R`` rows of one adapter, padded to a power of two; BT and BK are
the sizes of a tile; ``G`` = BK/8 groups of columns that share one call of the generator.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAssignmentType=false
# Triton doesn't know a star in a tuple.
# ruff: noqa: RUF005

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dropout import GROUP, Dropout
from .reference import Ranks

VARYING = ["first_stream", "threshold"]
"""Numbers that differ between layers and runs; to compile anew for their divisibility would gain nothing."""


class Tile(NamedTuple):
    """How the work is cut: tokens and columns of a tile, warps of a program, and tiles in flight."""

    tokens: int
    columns: int
    warps: int
    stages: int


def low_rank_down(
    x_TK: Tensor,
    a_RK: Tensor,
    *,
    out: Tensor,
    ranks: Ranks,
    dropout: Dropout | None = None,
    tile: Tile = Tile(32, 128, 4, 4),
) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_down`; no argument is checked here."""
    tokens, columns = x_TK.shape
    if sum(rank for _, rank in ranks) < len(a_RK):
        out.zero_()
    with torch.cuda.device_of(x_TK):
        _down_kernel[(triton.cdiv(tokens, tile.tokens),)](
            x_TK,
            a_RK,
            out,
            tokens,
            columns,
            x_TK.stride(0),
            a_RK.stride(0),
            out.stride(0),
            **_constants(x_TK, ranks, dropout, tile),
        )


def low_rank_up_(
    dx_TK: Tensor,
    dh_TR: Tensor,
    a_RK: Tensor,
    *,
    ranks: Ranks,
    dropout: Dropout | None = None,
    tile: Tile = Tile(64, 128, 8, 1),
) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_up_`; no argument is checked here."""
    tokens, columns = dx_TK.shape
    with torch.cuda.device_of(dx_TK):
        _up_kernel[(triton.cdiv(columns, tile.columns), triton.cdiv(tokens, tile.tokens))](
            dx_TK,
            dh_TR,
            a_RK,
            tokens,
            columns,
            dx_TK.stride(0),
            dh_TR.stride(0),
            a_RK.stride(0),
            **_constants(dx_TK, ranks, dropout, tile),
        )


def low_rank_gradient(
    p_TR: Tensor,
    q_TN: Tensor,
    out_RN: Tensor,
    *,
    ranks: Ranks,
    dropout: Dropout | None = None,
    tile: Tile = Tile(64, 128, 4, 3),
    splits: int = 4,
) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_gradient`; no argument is checked here.

    Tokens are cut into ``splits`` runs, whose sums are added up in order by a second kernel.
    """
    tokens, columns = q_TN.shape
    run = triton.cdiv(triton.cdiv(tokens, splits), tile.tokens) * tile.tokens
    splits = triton.cdiv(tokens, run)
    rows = len(out_RN)
    sums_SRN = out_RN if splits == 1 else torch.empty(splits, rows, columns, dtype=torch.float32, device=q_TN.device)
    with torch.cuda.device_of(q_TN):
        _gradient_kernel[(triton.cdiv(columns, tile.columns), splits)](
            q_TN,
            p_TR,
            sums_SRN,
            tokens,
            columns,
            run,
            q_TN.stride(0),
            p_TR.stride(0),
            sums_SRN.stride(-2),
            rows * columns,
            ADD=splits == 1,
            **_constants(q_TN, ranks, dropout, tile),
        )
        if splits > 1:
            for first, rank in ranks:
                _add_kernel[(triton.cdiv(rank * columns, 1024),)](
                    sums_SRN[:, first],
                    out_RN[first],
                    rank * columns,
                    columns,
                    out_RN.stride(0),
                    rows * columns,
                    SPLITS=splits,
                    BLOCK=1024,
                )


def _constants(wide: Tensor, ranks: Ranks, dropout: Dropout | None, tile: Tile) -> dict[str, Any]:
    """The arguments that all three kernels share."""
    tokens, columns = wide.shape
    rows = max(16, triton.next_power_of_2(max(rank for _, rank in ranks)))
    return {
        "seed_ptr": wide if dropout is None else dropout.seed,
        "first_stream": 0 if dropout is None else dropout.first_stream,
        "threshold": 0 if dropout is None else dropout.threshold,
        "scale": 1.0 if dropout is None else dropout.scale,
        "FIRST": tuple(first for first, _ in ranks),
        "RANK": tuple(rank for _, rank in ranks),
        "R": rows,
        "DROPOUT": dropout is not None,
        "FULL": not (tokens % tile.tokens or columns % tile.columns or any(rank != rows for _, rank in ranks)),
        "PRECISION": "ieee" if wide.dtype is torch.float32 else "tf32",
        "BT": tile.tokens,
        "BK": tile.columns,
        "GROUP": GROUP,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


@triton.jit(do_not_specialize=VARYING)
def _down_kernel(
    x_ptr,
    a_ptr,
    out_ptr,
    tokens,
    columns,
    x_stride,
    a_stride,
    out_stride,
    seed_ptr,
    first_stream,
    threshold,
    scale,
    FIRST: tl.constexpr,
    RANK: tl.constexpr,
    R: tl.constexpr,
    DROPOUT: tl.constexpr,
    FULL: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    COUNT: tl.constexpr = len(RANK)
    t_T = tl.program_id(0) * BT + tl.arange(0, BT)
    r_R = tl.arange(0, R)
    k_K = tl.arange(0, BK)
    x_TK = x_ptr + t_T.to(tl.int64)[:, None] * x_stride + k_K[None, :]
    h = ()
    for _ in tl.static_range(COUNT):
        h = h + (tl.zeros([BT, R], dtype=tl.float32),)
    for start in range(0, columns, BK):
        live_K = k_K < columns - start
        x = tl.load(x_TK + start, None if FULL else (t_T < tokens)[:, None] & live_K[None, :], None if FULL else 0.0)
        sums = ()
        for i in tl.static_range(COUNT):
            a_KR = a_ptr + (FIRST[i] + r_R)[None, :] * a_stride + (start + k_K)[:, None]
            live_KR = None if FULL else live_K[:, None] & (r_R < RANK[i])[None, :]
            a = tl.load(a_KR, live_KR, None if FULL else 0.0)
            kept = x
            if DROPOUT:
                kept = tl.where(_keep(seed_ptr, first_stream + i, t_T, start, threshold, BK, GROUP), x, 0.0)
            sums = sums + (tl.dot(kept, a, h[i], input_precision=PRECISION),)
        h = sums
    for i in tl.static_range(COUNT):
        out_TR = out_ptr + t_T.to(tl.int64)[:, None] * out_stride + (FIRST[i] + r_R)[None, :]
        live_TR = None if FULL else (t_T < tokens)[:, None] & (r_R < RANK[i])[None, :]
        tl.store(out_TR, (h[i] * scale).to(out_ptr.dtype.element_ty), live_TR)


@triton.jit(do_not_specialize=VARYING)
def _up_kernel(
    dx_ptr,
    dh_ptr,
    a_ptr,
    tokens,
    columns,
    dx_stride,
    dh_stride,
    a_stride,
    seed_ptr,
    first_stream,
    threshold,
    scale,
    FIRST: tl.constexpr,
    RANK: tl.constexpr,
    R: tl.constexpr,
    DROPOUT: tl.constexpr,
    FULL: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    COUNT: tl.constexpr = len(RANK)
    t_T = tl.program_id(1) * BT + tl.arange(0, BT)
    start = tl.program_id(0) * BK
    k_K = start + tl.arange(0, BK)
    r_R = tl.arange(0, R)
    dx_TK = dx_ptr + t_T.to(tl.int64)[:, None] * dx_stride + k_K[None, :]
    live_TK = None if FULL else (t_T < tokens)[:, None] & (k_K < columns)[None, :]
    dx = tl.load(dx_TK, live_TK)
    sum_TK = tl.zeros([BT, BK], dtype=tl.float32)
    for i in tl.static_range(COUNT):
        dh_TR = dh_ptr + t_T.to(tl.int64)[:, None] * dh_stride + (FIRST[i] + r_R)[None, :]
        a_RK = a_ptr + (FIRST[i] + r_R)[:, None] * a_stride + k_K[None, :]
        dh = tl.load(dh_TR, None if FULL else (t_T < tokens)[:, None] & (r_R < RANK[i])[None, :], None if FULL else 0.0)
        a = tl.load(a_RK, None if FULL else (r_R < RANK[i])[:, None] & (k_K < columns)[None, :], None if FULL else 0.0)
        if DROPOUT:
            keep = _keep(seed_ptr, first_stream + i, t_T, start, threshold, BK, GROUP)
            sum_TK += tl.where(keep, tl.dot(dh, a, input_precision=PRECISION), 0.0)
        else:
            sum_TK = tl.dot(dh, a, sum_TK, input_precision=PRECISION)
    tl.store(dx_TK, (dx.to(tl.float32) + sum_TK * scale).to(dx_ptr.dtype.element_ty), live_TK)


@triton.jit(do_not_specialize=VARYING)
def _gradient_kernel(
    q_ptr,
    p_ptr,
    out_ptr,
    tokens,
    columns,
    run,
    q_stride,
    p_stride,
    out_stride,
    split_stride,
    seed_ptr,
    first_stream,
    threshold,
    scale,
    ADD: tl.constexpr,
    FIRST: tl.constexpr,
    RANK: tl.constexpr,
    R: tl.constexpr,
    DROPOUT: tl.constexpr,
    FULL: tl.constexpr,
    PRECISION: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """K stands for the columns that the caller knows as N."""
    COUNT: tl.constexpr = len(RANK)
    start = tl.program_id(0) * BK
    k_K = start + tl.arange(0, BK)
    r_R = tl.arange(0, R)
    first_token = tl.program_id(1) * run
    last_token = tl.minimum(first_token + run, tokens)
    d = ()
    for _ in tl.static_range(COUNT):
        d = d + (tl.zeros([R, BK], dtype=tl.float32),)
    for t0 in range(first_token, last_token, BT):
        t_T = t0 + tl.arange(0, BT)
        live_T = t_T < last_token
        q_TK = q_ptr + t_T.to(tl.int64)[:, None] * q_stride + k_K[None, :]
        q = tl.load(q_TK, None if FULL else live_T[:, None] & (k_K < columns)[None, :], None if FULL else 0.0)
        sums = ()
        for i in tl.static_range(COUNT):
            p_RT = p_ptr + t_T.to(tl.int64)[None, :] * p_stride + (FIRST[i] + r_R)[:, None]
            p = tl.load(p_RT, None if FULL else live_T[None, :] & (r_R < RANK[i])[:, None], None if FULL else 0.0)
            kept = q
            if DROPOUT:
                kept = tl.where(_keep(seed_ptr, first_stream + i, t_T, start, threshold, BK, GROUP), q, 0.0)
            sums = sums + (tl.dot(p, kept, d[i], input_precision=PRECISION),)
        d = sums
    for i in tl.static_range(COUNT):
        out_RK = out_ptr + (FIRST[i] + r_R).to(tl.int64)[:, None] * out_stride + k_K[None, :]
        live_RK = (r_R < RANK[i])[:, None] & (k_K < columns)[None, :]
        if ADD:
            tl.store(out_RK, tl.load(out_RK, live_RK) + d[i] * scale, live_RK)
        else:
            tl.store(out_RK + tl.program_id(1).to(tl.int64) * split_stride, d[i] * scale, live_RK)


@triton.jit
def _add_kernel(sums_ptr, out_ptr, numel, columns, out_stride, split_stride, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """out += the sum over splits, in order."""
    i_B = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live_B = i_B < numel
    total_B = tl.zeros([BLOCK], dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total_B += tl.load(sums_ptr + split * split_stride + i_B, live_B, 0.0)
    out_B = out_ptr + (i_B // columns) * out_stride + i_B % columns
    tl.store(out_B, tl.load(out_B, live_B) + total_B, live_B)


@triton.jit
def _keep(seed_ptr, stream, t_T, start, threshold, BK: tl.constexpr, GROUP: tl.constexpr):
    """The mask [T, BK] of columns from ``start`` on, a multiple of 8: the numbers of dropout.py.

    Row and group are passed as a column and a row of the tile, so that the first two of ten rounds cost next to
    nothing. A number is compared in the upper half of a word, where the other half below it can't change the outcome.
    """
    group_G = start // GROUP + tl.arange(0, BK // GROUP)
    w0, w1, w2, w3 = tl.philox(tl.load(seed_ptr), group_G[None, :], t_T[:, None], stream, 0)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    numbers = tl.reshape(tl.join(words << 16, words), [t_T.shape[0], BK])
    return numbers >= (threshold.to(tl.uint32) << 16)
