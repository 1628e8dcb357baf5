"""The gated activation as GPU kernels: tiles of gate and up in, tiles of the result out, nothing read twice.

Both directions are bound by memory: three tensors move forward, six backward. So the product of low rank that backward
may add to its gradient is nearly free, as long as its factors are seldom read and its result lies where it is needed.
The first is a matter of order: a program keeps its columns of ``a`` and goes down the tokens, of which ``dh`` holds
little. The second needs a trick. Tensor cores scatter a result over a warp's threads; a thread that reads 16 bytes at
once holds 8 neighbours. To bring the two together Triton would send every tile through shared memory, there and back,
at the cost of all the rest again. But which column of ``a`` is which row of the product is ours to choose, so we choose
it such that each thread gets the product's values for just the elements that it has read (:func:`_as_in_memory`).

Legend: ``T`` tokens and ``F`` columns of a tile, ``R`` rank rounded up to a power of two, ``W`` warps.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalOperand=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference

LINEAR = tl.constexpr(reference.LINEAR)
CUBIC = tl.constexpr(reference.CUBIC)

TILE = {"T": 1, "F": 512, "num_warps": 2}

WARPS_WITH_PRODUCT = 4
LARGEST_RANK_INSIDE = 128
"""Beyond it ``a`` takes so much shared memory that a product of its own is quicker, at the cost of one more rounding.
So is it in float32, which tensor cores don't take, and there without that cost."""
MOST_TILES = 16
"""Tiles of 8 tokens that a program goes through at most; with more, the last programs to finish are too few."""
ENOUGH_PROGRAMS = 1024
"""Programs have fewer tiles if there would be fewer programs than that."""


def gated_activation(gate_up_TF2: Tensor, *, activation: str, out: Tensor | None = None) -> Tensor:
    """See :func:`quatrain.ops.gated_activation.gated_activation`; no argument is checked here."""
    tokens, columns = gate_up_TF2.shape[0], gate_up_TF2.shape[1] // 2
    if out is None:
        out = torch.empty(tokens, columns, dtype=gate_up_TF2.dtype, device=gate_up_TF2.device)
    if out.numel() == 0:
        return out
    with torch.cuda.device_of(gate_up_TF2):
        _forward[_grid(tokens, columns, TILE["T"], TILE["F"])](
            gate_up_TF2,
            out,
            tokens,
            columns,
            gate_up_TF2.stride(0),
            out.stride(0),
            ACTIVATION=activation,
            **TILE,
        )
    return out


def gated_activation_backward_(
    dact_TF: Tensor,
    gate_up_TF2: Tensor,
    *,
    activation: str,
    low_rank: tuple[Tensor, Tensor] | None = None,
) -> None:
    """See :func:`quatrain.ops.gated_activation.gated_activation_backward_`; no argument is checked here."""
    if dact_TF.numel() == 0:
        return
    if low_rank is not None and (dact_TF.dtype == torch.float32 or low_rank[0].shape[1] > LARGEST_RANK_INSIDE):
        dact_TF.addmm_(*low_rank)
        low_rank = None
    tokens, columns = dact_TF.shape
    operands = (dact_TF, gate_up_TF2, tokens, columns, dact_TF.stride(0), gate_up_TF2.stride(0))
    with torch.cuda.device_of(dact_TF):
        if low_rank is None:
            _backward[_grid(tokens, columns, TILE["T"], TILE["F"])](*operands, ACTIVATION=activation, **TILE)
            return
        dh_TR, a_RF = low_rank
        width = 64 * WARPS_WITH_PRODUCT
        tiles = min(MOST_TILES, triton.cdiv(tokens * columns, 8 * width * ENOUGH_PROGRAMS))
        _backward_with_product[_grid(tokens, columns, 8 * tiles, width)](
            *operands,
            dh_TR,
            a_RF,
            dh_TR.shape[1],
            dh_TR.stride(0),
            a_RF.stride(0),
            tiles,
            ACTIVATION=activation,
            R=max(16, triton.next_power_of_2(dh_TR.shape[1])),
            W=WARPS_WITH_PRODUCT,
            num_warps=WARPS_WITH_PRODUCT,
        )


def _grid(tokens: int, columns: int, rows: int, width: int) -> tuple[int]:
    """One dimension, columns first: neighbours in time are neighbours in memory, and T isn't bound to 65,535."""
    return (triton.cdiv(tokens, rows) * triton.cdiv(columns, width),)


@triton.jit
def _share(gate, ACTIVATION: tl.constexpr):
    """s(g) and its derivative, as in the reference."""
    if ACTIVATION == "gelu":
        share = 0.5 + 0.5 * tl.erf(gate * 0.7071067811865476)
        return share, tl.exp(-0.5 * gate * gate) * 0.3989422804014327
    elif ACTIVATION == "gelu_tanh":
        square = gate * gate
        share = tl.sigmoid(gate * (LINEAR + CUBIC * square))
        return share, share * (1 - share) * (LINEAR + 3 * CUBIC * square)
    else:
        share = tl.sigmoid(gate)
        return share, share * (1 - share)


@triton.jit
def _place(columns, rows, width):
    """First row (int64: offsets can pass 2³¹) and first column of this program."""
    across = tl.cdiv(columns, width)
    return (tl.program_id(0) // across).to(tl.int64) * rows, (tl.program_id(0) % across) * width


@triton.jit
def _forward(
    gate_up_ptr,
    out_ptr,
    tokens,
    columns,
    gate_up_stride,
    out_stride,
    ACTIVATION: tl.constexpr,
    T: tl.constexpr,
    F: tl.constexpr,
):
    first_row, first_col = _place(columns, T, F)
    row_T1 = first_row + tl.arange(0, T)[:, None]
    col_1F = first_col + tl.arange(0, F)[None, :]
    mask_TF = (row_T1 < tokens) & (col_1F < columns)
    gate_ptr_TF = gate_up_ptr + row_T1 * gate_up_stride + col_1F
    gate_TF = tl.load(gate_ptr_TF, mask_TF, other=0.0).to(tl.float32)
    up_TF = tl.load(gate_ptr_TF + columns, mask_TF, other=0.0).to(tl.float32)
    share_TF, _ = _share(gate_TF, ACTIVATION)
    act_TF = gate_TF * share_TF * up_TF
    tl.store(out_ptr + row_T1 * out_stride + col_1F, act_TF.to(out_ptr.dtype.element_ty), mask_TF)


@triton.jit
def _backward(
    dact_ptr,
    gate_up_ptr,
    tokens,
    columns,
    dact_stride,
    gate_up_stride,
    ACTIVATION: tl.constexpr,
    T: tl.constexpr,
    F: tl.constexpr,
):
    first_row, first_col = _place(columns, T, F)
    row_T1 = first_row + tl.arange(0, T)[:, None]
    col_1F = first_col + tl.arange(0, F)[None, :]
    mask_TF = (row_T1 < tokens) & (col_1F < columns)
    dact_ptr_TF = dact_ptr + row_T1 * dact_stride + col_1F
    gate_ptr_TF = gate_up_ptr + row_T1 * gate_up_stride + col_1F
    gate_TF = tl.load(gate_ptr_TF, mask_TF, other=0.0).to(tl.float32)
    up_TF = tl.load(gate_ptr_TF + columns, mask_TF, other=0.0).to(tl.float32)
    gradient_TF = tl.load(dact_ptr_TF, mask_TF, other=0.0).to(tl.float32)
    _write(dact_ptr_TF, gate_ptr_TF, columns, mask_TF, gate_TF, up_TF, gradient_TF, ACTIVATION)


@triton.jit
def _backward_with_product(
    dact_ptr,
    gate_up_ptr,
    tokens,
    columns,
    dact_stride,
    gate_up_stride,
    dh_ptr,
    a_ptr,
    rank,
    dh_stride,
    a_stride,
    tiles,
    ACTIVATION: tl.constexpr,
    R: tl.constexpr,
    W: tl.constexpr,
):
    """``tiles`` tiles of 8 tokens and 64·W columns, one below the other, in the dimensions of :func:`_elements`."""
    first_row, first_col = _place(columns, 8 * tiles, 64 * W)
    token, column = _elements(W)
    gate_offset = token * gate_up_stride + column
    dact_offset = token * dact_stride + column
    rank_R = tl.arange(0, R)
    token_8 = tl.arange(0, 8)
    a_FR = _load_factor(a_ptr + first_col, a_stride, rank, columns - first_col, R, W)
    for tile in range(tiles):
        row = first_row + 8 * tile
        mask = (token < tokens - row) & (column < columns - first_col)
        gate_ptrs = gate_up_ptr + (row * gate_up_stride + first_col) + gate_offset
        dact_ptrs = dact_ptr + (row * dact_stride + first_col) + dact_offset
        gate = tl.load(gate_ptrs, mask, other=0.0).to(tl.float32)
        up = tl.load(gate_ptrs + columns, mask, other=0.0).to(tl.float32)
        gradient = tl.load(dact_ptrs, mask, other=0.0).to(tl.float32)

        dh_ptr_R8 = dh_ptr + row * dh_stride + token_8[None, :] * dh_stride + rank_R[:, None]
        dh_R8 = tl.load(dh_ptr_R8, (rank_R < rank)[:, None] & (token_8 < tokens - row)[None, :], other=0.0)
        gradient += _as_in_memory(tl.dot(a_FR, dh_R8), W)
        # Where a compiler does move elements between threads, none may store act before all have read dact.
        tl.debug_barrier()
        _write(dact_ptrs, gate_ptrs, columns, mask, gate, up, gradient, ACTIVATION)


@triton.jit
def _as_in_memory(product_F8, W: tl.constexpr):
    """``(dh @ a)ᵀ``, its rows as in :func:`_load_factor`, as a tile of :func:`_elements`. No element leaves its thread.

    Of the product's 64·W rows and 8 columns, thread (r, q) of warp w holds the rows (i, w, h, r) for all i and h, and
    the columns (q, e) for both e, where i, w, h, r, q, e run to 4, W, 2, 8, 4, 2 (PTX, "Matrix Fragments for
    mma.m16n8k16"). Of a tile in memory it holds the tokens (q, e) and the columns (w, r, c) for 8 consecutive c, since
    that is how Triton deals out a tile [q, r, w, e, c] to have it read in pieces of 16 bytes. With c = (i, h) the two
    agree. Where they don't, as another GPU may have it, Triton converts and the result is the same.
    """
    by_place = tl.reshape(product_F8, (4, W, 2, 8, 4, 2))
    return tl.reshape(tl.permute(by_place, (4, 3, 1, 5, 0, 2)), (4, 8, W, 2, 8))


@triton.jit
def _elements(W: tl.constexpr):
    """Token and column of each element of a tile [q, r, w, e, c]."""
    q = tl.arange(0, 4)[:, None, None, None, None]
    r = tl.arange(0, 8)[None, :, None, None, None]
    w = tl.arange(0, W)[None, None, :, None, None]
    e = tl.arange(0, 2)[None, None, None, :, None]
    c = tl.arange(0, 8)[None, None, None, None, :]
    return 2 * q + e, 64 * w + 8 * r + c


@triton.jit
def _load_factor(a_ptr, a_stride, rank, columns, R: tl.constexpr, W: tl.constexpr):
    """64·W columns of ``a`` as rows, column (w, r, i, h) as row (i, w, h, r)."""
    rank_R1 = tl.arange(0, R)[:, None]
    col_1F = tl.arange(0, 64 * W)[None, :]
    a_RF = tl.load(a_ptr + rank_R1 * a_stride + col_1F, (rank_R1 < rank) & (col_1F < columns), other=0.0)
    return tl.reshape(tl.permute(tl.reshape(a_RF, (R, W, 8, 4, 2)), (3, 1, 4, 2, 0)), (64 * W, R))


@triton.jit
def _write(dact_ptrs, gate_ptrs, columns, mask, gate, up, gradient, ACTIVATION: tl.constexpr):
    share, slope = _share(gate, ACTIVATION)
    passed = gate * share
    d_gate = gradient * up * (share + gate * slope)
    dtype: tl.constexpr = gate_ptrs.dtype.element_ty
    tl.store(gate_ptrs, d_gate.to(dtype), mask)
    tl.store(gate_ptrs + columns, (gradient * passed).to(dtype), mask)
    tl.store(dact_ptrs, (passed * up).to(dact_ptrs.dtype.element_ty), mask)
