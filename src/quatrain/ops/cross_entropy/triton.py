"""Cross-entropy of rows of logits and its gradient in their place, as a GPU kernel: one program a row.

A row of 128k logits doesn't fit in registers, so it is read twice: once for the sum of exponentials, once to become the
gradient. One program of 32 warps fills half a multiprocessor, so that few rows are in work at a time, and the second
pass runs backwards, to begin with what the second-level cache still holds. (Reading ahead in shared memory, fewer
programs that each go through many rows, and smaller tiles are no faster on an H200.)

The first pass keeps a maximum and a sum for every 16 bytes that a thread reads at once, not for the program: no thread
waits for another until the row's end, and an element costs one exponential and not two. Exponents are of base two,
which is what the hardware computes.

Legend: ``P`` pieces of a tile, ``E`` elements of a piece.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalOperand=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference

IGNORED = tl.constexpr(reference.IGNORED)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1.0e30)
"""Maximum of no logits: finite even when scaled, since −∞ less −∞ is no number."""

ELEMENTS_OF_A_THREAD = 16


def cross_entropy_(
    logits_CV: Tensor,
    targets_C: Tensor,
    loss_C: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    want_gradient: bool = True,
) -> None:
    """See :func:`quatrain.ops.cross_entropy.cross_entropy_`; no argument is checked here."""
    rows, vocabulary = logits_CV.shape
    if rows == 0:
        return
    with torch.cuda.device_of(logits_CV):
        _kernel[(rows,)](
            logits_CV,
            targets_C,
            loss_C,
            vocabulary,
            logits_CV.stride(0),
            scale,
            softcap,
            GRADIENT=want_gradient,
            **_launch(vocabulary, 16 // logits_CV.element_size()),
        )


def _launch(vocabulary: int, piece: int) -> dict[str, int]:
    elements = min(32 * 32 * ELEMENTS_OF_A_THREAD, max(1024, triton.next_power_of_2(vocabulary)))
    return {"P": elements // piece, "E": piece, "num_warps": elements // (32 * ELEMENTS_OF_A_THREAD)}


@triton.jit
def _kernel(
    logits_ptr,
    targets_ptr,
    loss_ptr,
    vocabulary,
    stride,
    scale,
    softcap,
    GRADIENT: tl.constexpr,
    P: tl.constexpr,
    E: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride
    element_PE = tl.arange(0, P)[:, None] * E + tl.arange(0, E)[None, :]
    whole = vocabulary // (P * E) * (P * E)
    target = tl.load(targets_ptr + row)

    if target == IGNORED:
        tl.store(loss_ptr + row, 0.0)
        if GRADIENT:
            zero_PE = tl.zeros((P, E), logits_ptr.dtype.element_ty)
            for start in range(0, vocabulary, P * E):
                tl.store(row_ptr + start + element_PE, zero_PE, start + element_PE < vocabulary)
    else:
        # Read before the program's first barrier, hence before any thread writes over it. A target outside the
        # vocabulary reads nothing and shows as NaN.
        exists = (target >= 0) & (target < vocabulary)
        at_target = _bounded(tl.load(row_ptr + target, exists, other=float("nan")), scale, softcap)
        rate = (scale if softcap is None else softcap) * LOG2_E

        top_P = tl.full((P,), LOWEST, tl.float32)
        sum_P = tl.zeros((P,), tl.float32)
        for start in range(0, whole, P * E):
            u_PE = _bounded(tl.load(row_ptr + start + element_PE), scale, softcap)
            top_P, sum_P = _add_exponentials(u_PE, rate, top_P, sum_P)
        rest_PE = whole + element_PE
        u_PE = _bounded(tl.load(row_ptr + rest_PE, rest_PE < vocabulary, other=0.0), scale, softcap)
        u_PE = tl.where(rest_PE < vocabulary, u_PE, float("-inf"))
        top_P, sum_P = _add_exponentials(u_PE, rate, top_P, sum_P)

        top = tl.max(top_P, axis=0)
        log2_sum = tl.log2(tl.sum(sum_P * tl.exp2((top_P - top) * rate), axis=0))
        tl.store(loss_ptr + row, (log2_sum + (top - at_target) * rate) * LN_2)

        if GRADIENT:
            shift = log2_sum - tl.log2(scale)
            u_PE = _bounded(tl.load(row_ptr + rest_PE, rest_PE < vocabulary, other=0.0), scale, softcap)
            probability_PE = _probability(u_PE, rate, top, shift, softcap)
            tl.store(row_ptr + rest_PE, probability_PE.to(logits_ptr.dtype.element_ty), rest_PE < vocabulary)
            for back in range(P * E, whole + P * E, P * E):
                tile_PE = row_ptr + (whole - back) + element_PE
                probability_PE = _probability(_bounded(tl.load(tile_PE), scale, softcap), rate, top, shift, softcap)
                tl.store(tile_PE, probability_PE.to(logits_ptr.dtype.element_ty))
            # One correction instead of a comparison for every element.
            tl.debug_barrier()
            less_one = _probability(at_target, rate, top, shift, softcap) - scale * _slope(at_target, softcap)
            tl.store(row_ptr + target, less_one.to(logits_ptr.dtype.element_ty), exists)


@triton.jit
def _bounded(x, scale, softcap):
    """What the exponent is a multiple of, by ``rate``: the logits, or the tangent of soft-capping in [−1, 1].

    tanh(v) = 1 − 2/(e²ᵛ + 1) is right at both infinities. Near 0 its error is absolute, 1e-7, which a loss doesn't
    notice.
    """
    if softcap is None:
        return x.to(tl.float32)
    else:
        return 1 - 2 / (tl.exp(x.to(tl.float32) * (2 * scale / softcap)) + 1)


@triton.jit
def _slope(u, softcap):
    """Derivative of :func:`_bounded`, less scale and soft cap, which cancel against those of the exponent."""
    return 1.0 if softcap is None else 1 - u * u


@triton.jit
def _add_exponentials(u_PE, rate, top_P, sum_P):
    """Maximum of u, and sum of 2^((u − maximum) · rate), of each piece, with one more tile in them."""
    new_top_P = tl.maximum(top_P, tl.max(u_PE, axis=1))
    powers_PE = tl.exp2((u_PE - new_top_P[:, None]) * rate)
    return new_top_P, sum_P * tl.exp2((top_P - new_top_P) * rate) + tl.sum(powers_PE, axis=1)


@triton.jit
def _probability(u, rate, top, shift, softcap):
    """2^((u − top) · rate − shift), the softmax times scale, times the slope of soft-capping."""
    return tl.exp2(tl.fma(u - top, rate, -shift)) * _slope(u, softcap)
