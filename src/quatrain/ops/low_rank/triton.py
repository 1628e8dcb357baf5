"""LoRA's thin products on tensor cores, with the masks of dropout drawn in registers.

All three are bound by the memory of their wide side or, with dropout, by the integer multiplications that draw a mask
for each adapter. So a tile of the wide side is read once and serves all adapters of the group: mask, product, next one.
Two of the products sum over their wide side (down over columns, the gradient over rows). To keep every multiprocessor
busy that sum is cut into runs, which a second kernel adds up in order: atomic additions would not repeat.

Legend: ``T`` tokens, ``K`` columns of the wide side (the caller's K or N), ``R`` rows of one adapter, padded to a power
of two; BT and BK are the sizes of a tile; ``GROUP`` columns share a call of the generator.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAssignmentType=false
# Triton doesn't know a star in a tuple.
# ruff: noqa: RUF005

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cutting import SUM, UP, UP_OF_LARGE_RANK, UP_OF_MANY, UP_WITHOUT_DROPOUT, Part, Tile, batches, padded, run_length
from .dropout import GROUP, Dropout
from .dropout.triton import add_kept, in_pairs, keep, numbers
from .reference import Ranks

VARYING = ["first_stream", "threshold"]
"""Numbers that differ between layers and runs; to compile anew for their divisibility would gain nothing."""
ADDED_AT_ONCE = 1024


def low_rank_down(
    x_TK: Tensor, a_RK: Tensor, *, out: Tensor, ranks: Ranks, dropout: Dropout, runs: int | None = None
) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_down`; no argument is checked here.

    ``runs`` overrides into how many the sum is cut.
    """
    tokens, columns = x_TK.shape
    tiles, parts = triton.cdiv(tokens, SUM.tokens), batches(ranks)
    run = run_length(columns, SUM.columns, tiles, parts[0], x_TK.device, runs)
    sums_STR = _sums(-(-columns // run), out, ranks, len(a_RK))
    with torch.cuda.device_of(x_TK):
        for batch in parts:
            _down_kernel[(tiles, len(sums_STR))](
                x_TK,
                a_RK,
                sums_STR,
                tokens,
                columns,
                run,
                x_TK.stride(0),
                a_RK.stride(0),
                len(a_RK),
                **_constants(x_TK, batch, dropout, SUM),
            )
        _sum_up(sums_STR, out, accumulate=False)


def low_rank_up_(dx_TK: Tensor, dh_TR: Tensor, a_RK: Tensor, *, ranks: Ranks, dropout: Dropout | None = None) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_up_`; no argument is checked here."""
    tokens, columns = dx_TK.shape
    if dropout is None:
        parts = [Part(0, len(a_RK), 0)]
        tile = UP_WITHOUT_DROPOUT if len(a_RK) <= 64 else UP_OF_LARGE_RANK
    else:
        parts = [Part(first, rank, stream) for stream, (first, rank) in enumerate(ranks)]
        tile = UP if len(parts) == 1 else UP_OF_MANY
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
            DROPOUT=dropout is not None,
            **_constants(dx_TK, parts, dropout, tile),
        )


def low_rank_gradient(
    p_TR: Tensor, q_TN: Tensor, out_RN: Tensor, *, ranks: Ranks, dropout: Dropout, runs: int | None = None
) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_gradient`; no argument is checked here.

    ``runs`` overrides into how many the sum is cut.
    """
    tokens, columns = q_TN.shape
    tiles, parts = triton.cdiv(columns, SUM.columns), batches(ranks)
    run = run_length(tokens, SUM.tokens, tiles, parts[0], q_TN.device, runs)
    sums_SRN = _sums(-(-tokens // run), out_RN, ranks, len(out_RN))
    with torch.cuda.device_of(q_TN):
        for batch in parts:
            _gradient_kernel[(tiles, len(sums_SRN))](
                q_TN,
                p_TR,
                sums_SRN,
                tokens,
                columns,
                run,
                q_TN.stride(0),
                p_TR.stride(0),
                out_RN.numel(),
                **_constants(q_TN, batch, dropout, SUM),
            )
        _sum_up(sums_SRN, out_RN, accumulate=True)


def _sums(runs: int, out: Tensor, ranks: Ranks, rows: int) -> Tensor:
    """Where each run's share of ``out`` goes, float32 [runs, *out.shape]; zeros where no adapter will write."""
    make = torch.empty if sum(rank for _, rank in ranks) == rows else torch.zeros
    return make(runs, *out.shape, dtype=torch.float32, device=out.device)


def _sum_up(sums: Tensor, out: Tensor, *, accumulate: bool) -> None:
    runs, _, columns = sums.shape
    _sum_kernel[(triton.cdiv(out.numel(), ADDED_AT_ONCE),)](
        sums, out, out.numel(), columns, out.stride(0), RUNS=runs, ACCUMULATE=accumulate, BLOCK=ADDED_AT_ONCE
    )


def _constants(wide: Tensor, parts: list[Part], dropout: Dropout | None, tile: Tile) -> dict[str, Any]:
    """The arguments that all three kernels share."""
    tokens, columns = wide.shape
    rows = padded(parts)
    threshold = 0 if dropout is None else dropout.threshold
    return {
        "seed_ptr": wide if dropout is None else dropout.seed,
        "first_stream": 0 if dropout is None else dropout.first_stream,
        "threshold": threshold,
        "scale": 1.0 if dropout is None else dropout.scale,
        "FIRST": tuple(part.first for part in parts),
        "RANK": tuple(part.rank for part in parts),
        "STREAM": tuple(part.stream for part in parts),
        "R": rows,
        "FULL": not (tokens % tile.tokens or columns % tile.columns or any(part.rank != rows for part in parts)),
        "PAIRS": in_pairs(wide, threshold),
        "BT": tile.tokens,
        "BK": tile.columns,
        "GROUP": GROUP,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        **({} if tile.registers is None else {"maxnreg": tile.registers}),
    }


@triton.jit(do_not_specialize=VARYING)
def _down_kernel(
    x_ptr,
    a_ptr,
    sums_ptr,
    tokens,
    columns,
    run,
    x_stride,
    a_stride,
    sums_stride,
    seed_ptr,
    first_stream,
    threshold,
    scale,
    FIRST: tl.constexpr,
    RANK: tl.constexpr,
    STREAM: tl.constexpr,
    R: tl.constexpr,
    FULL: tl.constexpr,
    PAIRS: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One run of columns for one tile of tokens; ``sums`` is [runs, tokens, sums_stride]."""
    COUNT: tl.constexpr = len(RANK)
    t_T = tl.program_id(0) * BT + tl.arange(0, BT)
    live_T = t_T < tokens
    r_R = tl.arange(0, R)
    x_T1 = x_ptr + t_T.to(tl.int64)[:, None] * x_stride
    h = ()
    for _ in tl.static_range(COUNT):
        h = h + (tl.zeros([BT, R], dtype=tl.float32),)
    first_column = tl.program_id(1) * run
    for start in range(first_column, tl.minimum(first_column + run, columns), BK):
        k_K = start + tl.arange(0, BK)
        live_K = k_K < columns
        x = tl.load(x_T1 + k_K[None, :], None if FULL else live_T[:, None] & live_K[None, :], None if FULL else 0.0)
        sums = ()
        for i in tl.static_range(COUNT):
            a_KR = a_ptr + (FIRST[i] + r_R)[None, :] * a_stride + k_K[:, None]
            live_KR = None if FULL else live_K[:, None] & (r_R < RANK[i])[None, :]
            a = tl.load(a_KR, live_KR, None if FULL else 0.0)
            kept = keep(x, numbers(seed_ptr, first_stream + STREAM[i], t_T, start, BK, GROUP), threshold, PAIRS)
            sums = sums + (tl.dot(kept, a, h[i], input_precision="tf32x3"),)
        h = sums
    row_T = (tl.program_id(1) * tokens + t_T).to(tl.int64)
    for i in tl.static_range(COUNT):
        live_TR = None if FULL else live_T[:, None] & (r_R < RANK[i])[None, :]
        tl.store(sums_ptr + row_T[:, None] * sums_stride + (FIRST[i] + r_R)[None, :], h[i] * scale, live_TR)


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
    DROPOUT: tl.constexpr,
    FIRST: tl.constexpr,
    RANK: tl.constexpr,
    STREAM: tl.constexpr,
    R: tl.constexpr,
    FULL: tl.constexpr,
    PAIRS: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of dx."""
    t_T = tl.program_id(1) * BT + tl.arange(0, BT)
    start = tl.program_id(0) * BK
    k_K = start + tl.arange(0, BK)
    r_R = tl.arange(0, R)
    live_T, live_K = t_T < tokens, k_K < columns
    dx_TK = dx_ptr + t_T.to(tl.int64)[:, None] * dx_stride + k_K[None, :]
    live_TK = None if FULL else live_T[:, None] & live_K[None, :]
    dx = tl.load(dx_TK, live_TK)
    sum_TK = tl.zeros([BT, BK], dtype=tl.float32)
    for i in tl.static_range(len(RANK)):
        live_R = r_R < RANK[i]
        dh_TR = dh_ptr + t_T.to(tl.int64)[:, None] * dh_stride + (FIRST[i] + r_R)[None, :]
        dh = tl.load(dh_TR, None if FULL else live_T[:, None] & live_R[None, :], None if FULL else 0.0)
        a_RK = a_ptr + (FIRST[i] + r_R)[:, None] * a_stride + k_K[None, :]
        a = tl.load(a_RK, None if FULL else live_R[:, None] & live_K[None, :], None if FULL else 0.0)
        if DROPOUT:
            product = _shuffle(tl.dot(dh, _shuffle(a), input_precision="tf32x3"))
            number = numbers(seed_ptr, first_stream + STREAM[i], t_T, start, BK, GROUP)
            sum_TK = add_kept(sum_TK, product, number, threshold, PAIRS)
        else:
            sum_TK = tl.dot(dh, a, sum_TK, input_precision="tf32x3")
    tl.store(dx_TK, (dx.to(tl.float32) + sum_TK * scale).to(dx_ptr.dtype.element_ty), live_TK)


@triton.jit(do_not_specialize=VARYING)
def _gradient_kernel(
    q_ptr,
    p_ptr,
    sums_ptr,
    tokens,
    columns,
    run,
    q_stride,
    p_stride,
    run_stride,
    seed_ptr,
    first_stream,
    threshold,
    scale,
    FIRST: tl.constexpr,
    RANK: tl.constexpr,
    STREAM: tl.constexpr,
    R: tl.constexpr,
    FULL: tl.constexpr,
    PAIRS: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One run of tokens for one tile of columns; ``sums`` is [runs, rows, columns]."""
    COUNT: tl.constexpr = len(RANK)
    start = tl.program_id(0) * BK
    k_K = start + tl.arange(0, BK)
    r_R = tl.arange(0, R)
    live_K = k_K < columns
    d = ()
    for _ in tl.static_range(COUNT):
        d = d + (tl.zeros([R, BK], dtype=tl.float32),)
    first_token = tl.program_id(1) * run
    for t0 in range(first_token, tl.minimum(first_token + run, tokens), BT):
        t_T = t0 + tl.arange(0, BT)
        live_T = t_T < tokens
        q_TK = q_ptr + t_T.to(tl.int64)[:, None] * q_stride + k_K[None, :]
        q = tl.load(q_TK, None if FULL else live_T[:, None] & live_K[None, :], None if FULL else 0.0)
        sums = ()
        for i in tl.static_range(COUNT):
            p_RT = p_ptr + t_T.to(tl.int64)[None, :] * p_stride + (FIRST[i] + r_R)[:, None]
            live_RT = None if FULL else live_T[None, :] & (r_R < RANK[i])[:, None]
            p = tl.load(p_RT, live_RT, None if FULL else 0.0)
            kept = keep(q, numbers(seed_ptr, first_stream + STREAM[i], t_T, start, BK, GROUP), threshold, PAIRS)
            sums = sums + (tl.dot(p, kept, d[i], input_precision="tf32x3"),)
        d = sums
    sums_RK = sums_ptr + tl.program_id(1).to(tl.int64) * run_stride + r_R.to(tl.int64)[:, None] * columns + k_K[None, :]
    for i in tl.static_range(COUNT):
        live_RK = None if FULL else live_K[None, :] & (r_R < RANK[i])[:, None]
        tl.store(sums_RK + FIRST[i] * columns, d[i] * scale, live_RK)


@triton.jit
def _sum_kernel(
    sums_ptr, out_ptr, numel, columns, out_stride, RUNS: tl.constexpr, ACCUMULATE: tl.constexpr, BLOCK: tl.constexpr
):
    """``out`` becomes, or grows by, the sum over all runs, first to last."""
    i_B = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live_B = i_B < numel
    out_B = out_ptr + (i_B // columns).to(tl.int64) * out_stride + i_B % columns
    sum_B = tl.zeros([BLOCK], dtype=tl.float32)
    for run in tl.static_range(RUNS):
        sum_B += tl.load(sums_ptr + run * numel + i_B, live_B, 0.0)
    if ACCUMULATE:
        sum_B += tl.load(out_B, live_B, 0.0)
    tl.store(out_B, sum_B.to(out_ptr.dtype.element_ty), live_B)


@triton.jit
def _shuffle(a):
    """Swap, in each 32 columns, the four eights and the four pairs of an eight; its own inverse.

    Tensor cores hand a thread pairs of columns, eight columns apart, but a call of the generator serves eight
    neighbours. With the columns of A shuffled before the product and the product's after it, a thread's pairs are
    neighbours, and no mask has to move between threads.
    """
    pairs = tl.reshape(a, [a.shape[0], a.shape[1] // 32, 4, 4, 2])
    return tl.reshape(tl.permute(pairs, (0, 1, 3, 2, 4)), [a.shape[0], a.shape[1]])
