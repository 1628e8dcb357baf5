"""Attention of packed samples in Triton, forward and backward: covers what no library does (soft-capping, float32).

FlashAttention (Dao, https://arxiv.org/abs/2307.08691): a program keeps a tile of queries and walks over the keys they
see, correcting its sums as larger scores turn up; backward computes the weights again from the log-sum-exp. Backward
is two kernels, one that owns queries and writes dq, one that owns keys and writes dk and dv (for all query heads that
share them), so nothing is added up by atomics, and the gradients are the same to the last bit in every run.

Tiles are cut from the whole row and don't know of samples, so their number depends on T alone and the host needn't know
a length. A query sees the keys from ``start``, where its sample (or its window) starts, up to itself. Both bounds grow
along the row, so of the keys that a tile of queries walks over only the first and the last ones need a mask. A tile
across samples walks over keys that some of its queries don't see, which costs no more than the two half-empty tiles
that cutting at samples would give.

How tiles are cut and moved: `tiles.py`.

Legend: M queries of a tile, N keys of a tile, E = D rounded up to a power of two, R query heads per key/value head.
Exponentials are to base 2, the one the hardware has. Rows are addressed with 64 bits.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .segments import Segments
from .tiles import Move, Tiles, move_of, padded_size, tiles_for

_LOG2_E = math.log2(math.e)
_LOG2_E_IN_KERNELS = tl.constexpr(_LOG2_E)
_LOWEST = tl.constexpr(-1e30)
"""What the largest score starts from. Finite, so that hidden keys, of score −∞, get a weight of 0 and not NaN."""


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
    tokens, heads, _ = q_TAD.shape
    out_TAD = q_TAD.new_empty(q_TAD.shape) if out is None else out
    lse_AT = q_TAD.new_empty(heads, tokens, dtype=torch.float32)
    move = move_of(q_TAD, k_TGD, v_TGD, out_TAD)
    tiles = tiles_for(q_TAD, move).forward
    with torch.cuda.device_of(q_TAD):
        _forward_kernel[(triton.cdiv(tokens, tiles.queries), heads)](
            *_sources(move, tiles.queries, q_TAD, out_TAD),
            *_sources(move, tiles.keys, k_TGD, v_TGD),
            lse_AT,
            *_numbers(segments, tokens, scale, window, softcap),
            **_constants(q_TAD, k_TGD, segments, window, softcap, tiles, move),
        )
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
    tokens, heads, _ = q_TAD.shape
    lse_AT = lse_AT.contiguous()
    delta_AT = torch.empty_like(lse_AT)
    numbers = (*_numbers(segments, tokens, scale, window, softcap), scale)
    move = move_of(q_TAD, k_TGD, v_TGD, do_TAD, o_TAD, dq, dk, dv)
    all_tiles = tiles_for(q_TAD, move)
    with torch.cuda.device_of(q_TAD):
        tiles = all_tiles.query_gradient
        _query_gradient_kernel[(triton.cdiv(tokens, tiles.queries), heads)](
            *_sources(move, tiles.queries, q_TAD, do_TAD, o_TAD, dq),
            *_sources(move, tiles.keys, k_TGD, v_TGD),
            lse_AT,
            delta_AT,
            *numbers,
            **_constants(q_TAD, k_TGD, segments, window, softcap, tiles, move),
        )
        tiles = all_tiles.key_gradient
        _key_gradient_kernel[(triton.cdiv(tokens, tiles.keys), k_TGD.shape[1])](
            *_sources(move, tiles.queries, q_TAD, do_TAD),
            *_sources(move, tiles.keys, k_TGD, v_TGD, dk, dv),
            lse_AT,
            delta_AT,
            *numbers,
            **_constants(q_TAD, k_TGD, segments, window, softcap, tiles, move),
        )


def _sources(move: Move, rows: int, *tensors: Tensor) -> list[Any]:
    """Each tensor [T, heads, D] as kernels take it: a descriptor of tiles, or pointer and strides."""
    if move == Move.BY_POINTERS:
        return [(x, x.stride(0), x.stride(1)) for x in tensors]
    padded = padded_size(tensors[0])
    if move == Move.BY_HEAD:
        return [TensorDescriptor.from_tensor(x, [rows, 1, padded]) for x in tensors]
    matrices = (x.as_strided((x.shape[0], x.shape[1] * x.shape[2]), (x.stride(0), 1)) for x in tensors)
    return [TensorDescriptor.from_tensor(x, [rows, padded]) for x in matrices]


def _numbers(
    segments: Segments, tokens: int, scale: float, window: int | None, softcap: float | None
) -> tuple[Tensor, int, int, int, float, float]:
    """(ends, slots, T, window, factor, cap): base-2 scores are factor · q k, or cap · tanh(factor · q k)."""
    where = (segments.ends, len(segments.ends) - 1, tokens, window or tokens)
    return (*where, scale * _LOG2_E, 0.0) if softcap is None else (*where, scale / softcap, softcap * _LOG2_E)


def _constants(
    q_TAD: Tensor,
    k_TGD: Tensor,
    segments: Segments,
    window: int | None,
    softcap: float | None,
    tiles: Tiles,
    move: Move,
) -> dict[str, int | bool]:
    return {
        "D": q_TAD.shape[-1],
        "E": padded_size(q_TAD),
        "R": q_TAD.shape[1] // k_TGD.shape[1],
        "M": tiles.queries,
        "N": tiles.keys,
        "STEPS": (len(segments.ends) - 2).bit_length(),
        "WINDOW": window is not None,
        "SOFTCAP": softcap is not None,
        "DIMS": int(move),
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


@triton.jit
def _load(source, head, first, T, ROWS: tl.constexpr, D: tl.constexpr, E: tl.constexpr, DIMS: tl.constexpr):
    """Rows [ROWS, E] of a head from ``first`` on, zero beyond T and D."""
    if DIMS == 3:
        x_RE = source.load([first, head, 0]).reshape(ROWS, E)
    elif DIMS == 2:
        x_RE = source.load([first, head * D])
    else:
        ptr, token, per_head = source
        row_R1 = tl.arange(0, ROWS)[:, None]
        column_1E = tl.arange(0, E)[None, :]
        ptr_RE = ptr + first * token.to(tl.int64) + head * per_head + row_R1 * token + column_1E
        x_RE = tl.load(ptr_RE, mask=(first + row_R1 < T) & (column_1E < D), other=0.0)
    return x_RE


@triton.jit
def _store(x_RE, target, head, first, T, ROWS: tl.constexpr, D: tl.constexpr, E: tl.constexpr, DIMS: tl.constexpr):
    """Round rows [ROWS, E] and write them, less what lies beyond T and D."""
    if DIMS == 3:
        target.store([first, head, 0], x_RE.to(target.dtype).reshape(ROWS, 1, E))
    elif DIMS == 2:
        target.store([first, head * D], x_RE.to(target.dtype))
    else:
        ptr, token, per_head = target
        row_R1 = tl.arange(0, ROWS)[:, None]
        column_1E = tl.arange(0, E)[None, :]
        ptr_RE = ptr + first * token.to(tl.int64) + head * per_head + row_R1 * token + column_1E
        tl.store(ptr_RE, x_RE.to(ptr.dtype.element_ty), mask=(first + row_R1 < T) & (column_1E < D))


@triton.jit
def _product(x_XE, y_YE):
    return tl.dot(x_XE, tl.trans(y_YE), input_precision="ieee")


@triton.jit
def _tanh(x):
    return 1 - 2 / (tl.exp2(x * (2 * _LOG2_E_IN_KERNELS)) + 1)


@triton.jit
def _sample(place_X, ends_ptr, slots, STEPS: tl.constexpr):
    """Start and end of the sample in which each place lies, by bisection."""
    low_X = place_X * 0
    high_X = low_X + slots
    for _ in tl.static_range(STEPS):
        middle_X = (low_X + high_X) // 2
        behind_X = tl.load(ends_ptr + middle_X) <= place_X
        low_X = tl.where(behind_X, middle_X, low_X)
        high_X = tl.where(behind_X, high_X, middle_X)
    return tl.load(ends_ptr + low_X), tl.load(ends_ptr + high_X)


@triton.jit
def _first_key(row_X, ends_ptr, slots, window, STEPS: tl.constexpr, WINDOW: tl.constexpr):
    """The first key that each query sees."""
    start_X, _ = _sample(row_X, ends_ptr, slots, STEPS)
    if WINDOW:
        start_X = tl.maximum(start_X, row_X - window + 1)
    return start_X


@triton.jit
def _behind_last_query(key_X, ends_ptr, slots, window, STEPS: tl.constexpr, WINDOW: tl.constexpr):
    """One more than the last query that sees each key."""
    _, end_X = _sample(key_X, ends_ptr, slots, STEPS)
    if WINDOW:
        end_X = tl.minimum(end_X, key_X + window)
    return end_X


@triton.jit
def _sees(start_M, row_M, key_N):
    """[M, N]: whether each query sees each key."""
    return (key_N[None, :] >= start_M[:, None]) & (key_N[None, :] <= row_M[:, None])


@triton.jit
def _forward_kernel(
    q, o, k, v, lse_ptr, ends_ptr, slots, T, window, factor, cap,
    D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    STEPS: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    # Later tiles of a sample see more keys; what takes longest goes first.
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * M
    head = tl.program_id(1)
    last = tl.minimum(first + M, T) - 1
    inside_M = first + tl.arange(0, M) <= last
    row_M = tl.minimum(first + tl.arange(0, M), last)
    start_M = _first_key(row_M, ends_ptr, slots, window, STEPS, WINDOW)
    low = _first_key(first, ends_ptr, slots, window, STEPS, WINDOW)
    seen_by_all = _first_key(last, ends_ptr, slots, window, STEPS, WINDOW)
    unit = cap if SOFTCAP else factor

    q_ME = _load(q, head, first, T, M, D, E, DIMS)
    largest_M = tl.full([M], _LOWEST, tl.float32)
    sum_M = tl.zeros([M], tl.float32)
    out_ME = tl.zeros([M, E], tl.float32)
    for key in tl.range(low, last + 1, N):
        k_NE = _load(k, head // R, key, T, N, D, E, DIMS)
        score_MN = _product(q_ME, k_NE)
        if SOFTCAP:
            score_MN = _tanh(score_MN * factor)
        if (key < seen_by_all) | (key + N > first + 1):
            score_MN = tl.where(_sees(start_M, row_M, key + tl.arange(0, N)), score_MN, float("-inf"))
        new_M = tl.maximum(largest_M, tl.max(score_MN, 1) * unit)
        weight_MN = tl.exp2(score_MN * unit - new_M[:, None])
        shrink_M = tl.exp2(largest_M - new_M)
        v_NE = _load(v, head // R, key, T, N, D, E, DIMS)
        out_ME = tl.dot(weight_MN.to(v_NE.dtype), v_NE, out_ME * shrink_M[:, None], input_precision="ieee")
        sum_M = sum_M * shrink_M + tl.sum(weight_MN, 1)
        largest_M = new_M

    _store(out_ME / sum_M[:, None], o, head, first, T, M, D, E, DIMS)
    lse_M = (largest_M + tl.log2(sum_M)) / _LOG2_E_IN_KERNELS
    tl.store(lse_ptr + head.to(tl.int64) * T + row_M, lse_M, mask=inside_M)


@triton.jit
def _query_gradient_kernel(
    q, do, o, dq, k, v, lse_ptr, delta_ptr, ends_ptr, slots, T, window, factor, cap, scale,
    D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    STEPS: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """dq, and for the other kernel delta = Σ do · o per query."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * M
    head = tl.program_id(1)
    last = tl.minimum(first + M, T) - 1
    inside_M = first + tl.arange(0, M) <= last
    row_M = tl.minimum(first + tl.arange(0, M), last)
    start_M = _first_key(row_M, ends_ptr, slots, window, STEPS, WINDOW)
    low = _first_key(first, ends_ptr, slots, window, STEPS, WINDOW)

    do_ME = _load(do, head, first, T, M, D, E, DIMS)
    o_ME = _load(o, head, first, T, M, D, E, DIMS)
    delta_M = tl.sum(do_ME.to(tl.float32) * o_ME.to(tl.float32), 1)
    place_M = head.to(tl.int64) * T + row_M
    tl.store(delta_ptr + place_M, delta_M, mask=inside_M)
    lse_M = tl.load(lse_ptr + place_M) * _LOG2_E_IN_KERNELS

    q_ME = _load(q, head, first, T, M, D, E, DIMS)
    dq_ME = tl.zeros([M, E], tl.float32)
    for key in tl.range(low, last + 1, N):
        k_NE = _load(k, head // R, key, T, N, D, E, DIMS)
        v_NE = _load(v, head // R, key, T, N, D, E, DIMS)
        score_MN = _product(q_ME, k_NE) * factor
        if SOFTCAP:
            tanh_MN = _tanh(score_MN)
            score_MN = tanh_MN * cap
        seen_MN = _sees(start_M, row_M, key + tl.arange(0, N))
        weight_MN = tl.where(seen_MN, tl.exp2(score_MN - lse_M[:, None]), 0.0)
        dscore_MN = weight_MN * (_product(do_ME, v_NE) - delta_M[:, None])
        if SOFTCAP:
            dscore_MN *= 1 - tanh_MN * tanh_MN
        dq_ME = tl.dot(dscore_MN.to(k_NE.dtype), k_NE, dq_ME, input_precision="ieee")
    _store(dq_ME * scale, dq, head, first, T, M, D, E, DIMS)


@triton.jit
def _key_gradient_kernel(
    q, do, k, v, dk, dv, lse_ptr, delta_ptr, ends_ptr, slots, T, window, factor, cap, scale,
    D: tl.constexpr, E: tl.constexpr, R: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    STEPS: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    # Early keys of a sample are seen by most queries; what takes longest goes first.
    first = tl.program_id(0) * N
    group = tl.program_id(1)
    key_N = first + tl.arange(0, N)
    stop_N = _behind_last_query(tl.minimum(key_N, T - 1), ends_ptr, slots, window, STEPS, WINDOW)
    stop = _behind_last_query(tl.minimum(first + N, T) - 1, ends_ptr, slots, window, STEPS, WINDOW)

    k_NE = _load(k, group, first, T, N, D, E, DIMS)
    v_NE = _load(v, group, first, T, N, D, E, DIMS)
    dk_NE = tl.zeros([N, E], tl.float32)
    dv_NE = tl.zeros([N, E], tl.float32)
    for member in tl.range(0, R):
        head = group * R + member
        for query in tl.range(first, stop, M):
            row_M = query + tl.arange(0, M)
            place_M = head.to(tl.int64) * T + row_M
            q_ME = _load(q, head, query, T, M, D, E, DIMS)
            do_ME = _load(do, head, query, T, M, D, E, DIMS)
            lse_M = tl.load(lse_ptr + place_M, mask=row_M < T, other=0.0) * _LOG2_E_IN_KERNELS
            delta_M = tl.load(delta_ptr + place_M, mask=row_M < T, other=0.0)
            score_NM = _product(k_NE, q_ME) * factor
            if SOFTCAP:
                tanh_NM = _tanh(score_NM)
                score_NM = tanh_NM * cap
            seen_NM = (key_N[:, None] <= row_M[None, :]) & (row_M[None, :] < stop_N[:, None])
            weight_NM = tl.where(seen_NM, tl.exp2(score_NM - lse_M[None, :]), 0.0)
            dv_NE = tl.dot(weight_NM.to(do_ME.dtype), do_ME, dv_NE, input_precision="ieee")
            dscore_NM = weight_NM * (_product(v_NE, do_ME) - delta_M[None, :])
            if SOFTCAP:
                dscore_NM *= 1 - tanh_NM * tanh_NM
            dk_NE = tl.dot(dscore_NM.to(q_ME.dtype), q_ME, dk_NE, input_precision="ieee")
    _store(dk_NE * scale, dk, group, first, T, N, D, E, DIMS)
    _store(dv_NE, dv, group, first, T, N, D, E, DIMS)
