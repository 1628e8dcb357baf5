"""The gated activation as GPU kernels: tiles of gate and up in, tiles of the result out, nothing read twice.

Both directions are bound by memory (three tensors move forward, six backward), so the low-rank part of backward's
gradient is nearly free: its product runs on the tensor cores while the tiles of gate, up and gradient are on their way.
Its two factors are small enough to stay in the second-level cache.

Legend: ``T`` tokens and ``F`` columns of a tile, ``R`` ranks at once.
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

FORWARD = {"T": 1, "F": 2048, "num_warps": 4}
BACKWARD = {"T": 1, "F": 2048, "num_warps": 4}
BACKWARD_WITH_PRODUCT = {"T": 64, "F": 64, "num_warps": 4}


def gated_activation(gate_up_TF2: Tensor, *, activation: str, out: Tensor | None = None) -> Tensor:
    """See :func:`quatrain.ops.gated_activation.gated_activation`; no argument is checked here."""
    tokens, width = gate_up_TF2.shape
    if out is None:
        out = torch.empty(tokens, width // 2, dtype=gate_up_TF2.dtype, device=gate_up_TF2.device)
    if out.numel() == 0:
        return out
    with torch.cuda.device_of(gate_up_TF2):
        _forward[_grid(tokens, width // 2, FORWARD)](
            gate_up_TF2,
            out,
            tokens,
            width // 2,
            gate_up_TF2.stride(0),
            out.stride(0),
            ACTIVATION=activation,
            **FORWARD,
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
    tokens, columns = dact_TF.shape
    dh_TR, a_RF = low_rank or (None, None)
    tile = BACKWARD if dh_TR is None else BACKWARD_WITH_PRODUCT
    rank = 0 if dh_TR is None else dh_TR.shape[1]
    with torch.cuda.device_of(dact_TF):
        _backward[_grid(tokens, columns, tile)](
            dact_TF,
            gate_up_TF2,
            dh_TR,
            a_RF,
            tokens,
            columns,
            dact_TF.stride(0),
            gate_up_TF2.stride(0),
            0 if dh_TR is None else dh_TR.stride(0),
            0 if a_RF is None else a_RF.stride(0),
            ACTIVATION=activation,
            RANK=rank,
            R=min(64, rank & -rank),  # the largest power of two that divides the rank
            **tile,
        )


def _grid(tokens: int, columns: int, tile: dict[str, int]) -> tuple[int]:
    """One dimension, columns first: neighbours in time are neighbours in memory, and T isn't bound to 65,535."""
    return (triton.cdiv(tokens, tile["T"]) * triton.cdiv(columns, tile["F"]),)


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
def _tile(tokens, columns, T: tl.constexpr, F: tl.constexpr):
    """This program's rows [T, 1] (int64, since offsets can pass 2³¹), its columns [1, F] and which of them exist."""
    across = tl.cdiv(columns, F)
    row_T1 = (tl.program_id(0) // across).to(tl.int64) * T + tl.arange(0, T)[:, None]
    col_1F = (tl.program_id(0) % across) * F + tl.arange(0, F)[None, :]
    return row_T1, col_1F, (row_T1 < tokens) & (col_1F < columns)


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
    row_T1, col_1F, mask_TF = _tile(tokens, columns, T, F)
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
    dh_ptr,
    a_ptr,
    tokens,
    columns,
    dact_stride,
    gate_up_stride,
    dh_stride,
    a_stride,
    ACTIVATION: tl.constexpr,
    RANK: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
    F: tl.constexpr,
):
    row_T1, col_1F, mask_TF = _tile(tokens, columns, T, F)
    dact_ptr_TF = dact_ptr + row_T1 * dact_stride + col_1F
    gate_ptr_TF = gate_up_ptr + row_T1 * gate_up_stride + col_1F
    up_ptr_TF = gate_ptr_TF + columns
    gate_TF = tl.load(gate_ptr_TF, mask_TF, other=0.0).to(tl.float32)
    up_TF = tl.load(up_ptr_TF, mask_TF, other=0.0).to(tl.float32)
    gradient_TF = tl.load(dact_ptr_TF, mask_TF, other=0.0).to(tl.float32)

    if RANK > 0:
        product_TF = tl.zeros((T, F), tl.float32)
        for first in tl.static_range(0, RANK, R):
            dh_ptr_TR = dh_ptr + row_T1 * dh_stride + first + tl.arange(0, R)[None, :]
            a_ptr_RF = a_ptr + (first + tl.arange(0, R)[:, None]) * a_stride + col_1F
            dh_TR = tl.load(dh_ptr_TR, row_T1 < tokens, other=0.0)
            a_RF = tl.load(a_ptr_RF, col_1F < columns, other=0.0)
            product_TF = tl.dot(dh_TR, a_RF, product_TF, input_precision="ieee")
        gradient_TF += product_TF
        # The product may move elements between threads: none may store act before all have read dact.
        tl.debug_barrier()

    share_TF, slope_TF = _share(gate_TF, ACTIVATION)
    passed_TF = gate_TF * share_TF
    d_gate_TF = gradient_TF * up_TF * (share_TF + gate_TF * slope_TF)
    dtype: tl.constexpr = gate_up_ptr.dtype.element_ty
    tl.store(gate_ptr_TF, d_gate_TF.to(dtype), mask_TF)
    tl.store(up_ptr_TF, (gradient_TF * passed_TF).to(dtype), mask_TF)
    tl.store(dact_ptr_TF, (passed_TF * up_TF).to(dact_ptr.dtype.element_ty), mask_TF)
