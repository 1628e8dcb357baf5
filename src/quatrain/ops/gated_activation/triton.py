"""The gated activation as GPU kernels: tiles of gate and up in, tiles of the result out, nothing read twice.

Both directions are bound by memory: three tensors move forward, six backward. The product of low rank that backward may
add to its gradient reads little; what costs is to bring its result to where it is needed. Tensor cores leave a thread
pairs of columns, 8 apart; reading 16 bytes at once leaves it 8 neighbours. To bring the two together Triton would send
every tile through shared memory, there and back, which doubles the time. Instead the factors' rows and columns enter
the product in the order in which its result comes out right (:func:`_product`).

Legend: ``T`` tokens and ``F`` columns of a tile, ``R`` rank rounded up to a power of two.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalOperand=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .eight_bits import BLOCK, EightBits

LINEAR = tl.constexpr(reference.LINEAR)
CUBIC = tl.constexpr(reference.CUBIC)

TILE = {"T": 1, "F": 512, "num_warps": 2}
TILE_WITH_PRODUCT = {"T": 64, "F": 32, "num_warps": 4}
LARGEST_RANK_INSIDE = 128
"""Beyond it a product of its own is quicker, at the cost of one more rounding. So it is in float32, which tensor cores
don't take, and there without that cost."""
ENOUGH_PROGRAMS = 4096
"""A program goes through several tiles only as far as that many programs are left."""


def gated_activation(
    gate_up_TF2: Tensor, *, activation: str, out: Tensor | None = None, eight_bits: EightBits | None = None
) -> Tensor:
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
            *(eight_bits or (None, None)),
            tokens,
            columns,
            gate_up_TF2.stride(0),
            out.stride(0),
            ACTIVATION=activation,
            BLOCK=BLOCK,
            **TILE,
        )
    return out


def gated_activation_backward_(
    dact_TF: Tensor,
    gate_up_TF2: Tensor,
    *,
    activation: str,
    eight_bits: EightBits | None = None,
    low_rank: tuple[Tensor, Tensor] | None = None,
) -> None:
    """See :func:`quatrain.ops.gated_activation.gated_activation_backward_`; no argument is checked here."""
    if dact_TF.numel() == 0:
        return
    if low_rank is not None and (dact_TF.dtype == torch.float32 or low_rank[0].shape[1] > LARGEST_RANK_INSIDE):
        dact_TF.addmm_(*low_rank)
        low_rank = None
    tokens, columns = dact_TF.shape
    source_TF2, scales_TB2 = eight_bits or (gate_up_TF2, None)
    strides = dact_TF.stride(0), source_TF2.stride(0), gate_up_TF2.stride(0)
    operands = (dact_TF, source_TF2, scales_TB2, gate_up_TF2, tokens, columns, *strides)
    with torch.cuda.device_of(dact_TF):
        if low_rank is None:
            _backward[_grid(tokens, columns, TILE["T"], TILE["F"])](
                *operands, ACTIVATION=activation, BLOCK=BLOCK, **TILE
            )
            return
        dh_TR, a_RF = low_rank
        rank = dh_TR.shape[1]
        tiles = _tiles_of_a_program(tokens, columns, rank)
        _backward_with_product[_grid(tokens, columns, TILE_WITH_PRODUCT["T"], tiles * TILE_WITH_PRODUCT["F"])](
            *operands,
            dh_TR,
            a_RF,
            rank,
            dh_TR.stride(0),
            a_RF.stride(0),
            ACTIVATION=activation,
            BLOCK=BLOCK,
            TILES=tiles,
            R=max(16, triton.next_power_of_2(rank)),
            **TILE_WITH_PRODUCT,
        )


def _tiles_of_a_program(tokens: int, columns: int, rank: int) -> int:
    """How many neighbouring tiles share their rows of ``dh``: the more, the larger those are."""
    tiles = triton.cdiv(tokens, TILE_WITH_PRODUCT["T"]) * triton.cdiv(columns, TILE_WITH_PRODUCT["F"])
    return max(1, min(2 if rank <= 32 else 4, tiles // ENOUGH_PROGRAMS))


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
def _place(columns, T: tl.constexpr, WIDTH: tl.constexpr):
    """First row (int64: offsets can pass 2³¹) and first column of this program."""
    across = tl.cdiv(columns, WIDTH)
    return (tl.program_id(0) // across).to(tl.int64) * T, (tl.program_id(0) % across) * WIDTH


@triton.jit
def _forward(
    gate_up_ptr,
    out_ptr,
    codes_ptr,
    scales_ptr,
    tokens,
    columns,
    gate_up_stride,
    out_stride,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    F: tl.constexpr,
):
    """``codes`` and ``scales`` may be None; their rows follow one another without a gap."""
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
    if codes_ptr is not None:
        blocks = tl.cdiv(columns, BLOCK)
        block_1B = first_col // BLOCK + tl.arange(0, F // BLOCK)[None, :]
        codes_ptr_TF = codes_ptr + row_T1 * 2 * columns + col_1F
        scales_ptr_TB = scales_ptr + row_T1 * 2 * blocks + block_1B
        mask_TB = (row_T1 < tokens) & (block_1B < blocks)
        _compress(gate_TF, codes_ptr_TF, scales_ptr_TB, mask_TF, mask_TB, BLOCK, T, F)
        _compress(up_TF, codes_ptr_TF + columns, scales_ptr_TB + blocks, mask_TF, mask_TB, BLOCK, T, F)


@triton.jit
def _compress(
    value_TF,
    codes_ptr_TF,
    scales_ptr_TB,
    mask_TF,
    mask_TB,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    F: tl.constexpr,
):
    """Store whole blocks of gate or up in 8 bits, as in the reference."""
    value_TBV = tl.reshape(value_TF, (T, F // BLOCK, BLOCK))
    largest_TB = tl.max(tl.abs(value_TBV), axis=2)
    step_TB = 127 / tl.where(largest_TB > 0, largest_TB, 1.0)
    code_TBV = tl.floor(value_TBV * step_TB[:, :, None] + 0.5)
    tl.store(codes_ptr_TF, tl.reshape(code_TBV, (T, F)).to(tl.int8), mask_TF)
    tl.store(scales_ptr_TB, largest_TB / 127, mask_TB)


@triton.jit
def _gate_and_up(source_ptrs, scales_ptrs, columns, blocks, mask, mask_of_scales):
    """Of 16 bits, or of 8 with their scales, of which there are ``blocks`` a half."""
    gate = tl.load(source_ptrs, mask, other=0).to(tl.float32)
    up = tl.load(source_ptrs + columns, mask, other=0).to(tl.float32)
    if scales_ptrs is not None:
        gate *= tl.load(scales_ptrs, mask_of_scales, other=0.0)
        up *= tl.load(scales_ptrs + blocks, mask_of_scales, other=0.0)
    return gate, up


@triton.jit
def _backward(
    dact_ptr,
    source_ptr,
    scales_ptr,
    gradient_ptr,
    tokens,
    columns,
    dact_stride,
    source_stride,
    gradient_stride,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    F: tl.constexpr,
):
    """``source`` is where gate and up are: in ``gradient``, or in 8 bits with ``scales``."""
    first_row, first_col = _place(columns, T, F)
    row_T1 = first_row + tl.arange(0, T)[:, None]
    col_1F = first_col + tl.arange(0, F)[None, :]
    mask_TF = (row_T1 < tokens) & (col_1F < columns)
    dact_ptr_TF = dact_ptr + row_T1 * dact_stride + col_1F
    blocks, scales_ptr_TF = tl.cdiv(columns, BLOCK), None
    if scales_ptr is not None:
        scales_ptr_TF = scales_ptr + row_T1 * 2 * blocks + col_1F // BLOCK
    source_ptr_TF = source_ptr + row_T1 * source_stride + col_1F
    gate_TF, up_TF = _gate_and_up(source_ptr_TF, scales_ptr_TF, columns, blocks, mask_TF, mask_TF)
    gradient_TF = tl.load(dact_ptr_TF, mask_TF, other=0.0).to(tl.float32)
    gradient_ptr_TF = gradient_ptr + row_T1 * gradient_stride + col_1F
    _write(dact_ptr_TF, gradient_ptr_TF, columns, mask_TF, gate_TF, up_TF, gradient_TF, ACTIVATION)


@triton.jit
def _backward_with_product(
    dact_ptr,
    source_ptr,
    scales_ptr,
    gradient_ptr,
    tokens,
    columns,
    dact_stride,
    source_stride,
    gradient_stride,
    dh_ptr,
    a_ptr,
    rank,
    dh_stride,
    a_stride,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
    F: tl.constexpr,
):
    """As :func:`_backward`. A program's tiles lie side by side, so that ``dh`` is read once for all of them."""
    first_row, first_col = _place(columns, T, TILES * F)
    row_T1 = tl.arange(0, T)[:, None]
    dact_ptr_T1 = dact_ptr + first_row * dact_stride + row_T1 * dact_stride
    source_ptr_T1 = source_ptr + first_row * source_stride + row_T1 * source_stride
    gradient_ptr_T1 = gradient_ptr + first_row * gradient_stride + row_T1 * gradient_stride
    rank_R = tl.arange(0, R)
    row_of_product_T1 = _row_of_product(T)[:, None]
    dh_ptr_TR = dh_ptr + first_row * dh_stride + row_of_product_T1 * dh_stride + rank_R[None, :]
    dh_TR = tl.load(dh_ptr_TR, (first_row + row_of_product_T1 < tokens) & (rank_R < rank)[None, :], other=0.0)
    blocks = tl.cdiv(columns, BLOCK)
    mask_T1 = first_row + row_T1 < tokens
    for tile in range(TILES):
        start = first_col + tile * F
        col_1F = start + tl.arange(0, F)[None, :]
        mask_TF = mask_T1 & (col_1F < columns)
        scales_ptr_T1 = None
        if scales_ptr is not None:
            # A tile is a part of one block; one behind the last column reads that block's scales for nothing.
            block = tl.minimum(start, columns - 1) // BLOCK
            scales_ptr_T1 = scales_ptr + (first_row + row_T1) * 2 * blocks + block
        source_ptr_TF = source_ptr_T1 + col_1F
        gate_TF, up_TF = _gate_and_up(source_ptr_TF, scales_ptr_T1, columns, blocks, mask_TF, mask_T1)
        gradient_TF = tl.load(dact_ptr_T1 + col_1F, mask_TF, other=0.0).to(tl.float32)

        col_of_product_1F = start + _column_of_product(F)[None, :]
        a_ptr_RF = a_ptr + rank_R[:, None] * a_stride + col_of_product_1F
        a_RF = tl.load(a_ptr_RF, (rank_R < rank)[:, None] & (col_of_product_1F < columns), other=0.0)
        gradient_TF += _product(dh_TR, a_RF, T, F)
        # A compiler that does move elements between threads must not store act before all threads have read dact.
        tl.debug_barrier()
        _write(
            dact_ptr_T1 + col_1F, gradient_ptr_T1 + col_1F, columns, mask_TF, gate_TF, up_TF, gradient_TF, ACTIVATION
        )


@triton.jit
def _product(dh_TR, a_RF, T: tl.constexpr, F: tl.constexpr):
    """``dh @ a``, each element in the thread that holds it in a tile read from memory. Any other layout is only slower.

    Of a product [64, 32] four warps hold, by row: warp, half, row of 8; by column: pair of 8, thread of 4, element of
    the pair. Of a tile in memory they hold, by row: half, warp, row of 8; by column: thread of 4, 8 elements. Taking
    the factors' rows and columns in the second order and renaming the result's is all it takes.
    """
    product_TF = tl.dot(dh_TR, a_RF)
    by_place = tl.reshape(product_TF, (T // 16, 2, 8, F // 8, 4, 2))
    return tl.reshape(tl.permute(by_place, (1, 0, 2, 4, 3, 5)), (T, F))


@triton.jit
def _row_of_product(T: tl.constexpr):
    """Which of T rows to hand to the product as its row (warp, half, row of 8): row (half, warp, row of 8)."""
    place_T = tl.arange(0, T)
    return place_T // 8 % 2 * (T // 2) + place_T // 16 * 8 + place_T % 8


@triton.jit
def _column_of_product(F: tl.constexpr):
    """Which of F columns to hand to the product as (pair, thread, element): column (thread, pair, element)."""
    place_F = tl.arange(0, F)
    return place_F // 2 % 4 * (F // 4) + place_F // 8 * 2 + place_F % 2


@triton.jit
def _write(dact_ptrs, gate_ptrs, columns, mask, gate, up, gradient, ACTIVATION: tl.constexpr):
    share, slope = _share(gate, ACTIVATION)
    passed = gate * share
    d_gate = gradient * up * (share + gate * slope)
    dtype: tl.constexpr = gate_ptrs.dtype.element_ty
    tl.store(gate_ptrs, d_gate.to(dtype), mask)
    tl.store(gate_ptrs + columns, (gradient * passed).to(dtype), mask)
    tl.store(dact_ptrs, (passed * up).to(dact_ptrs.dtype.element_ty), mask)
