"""Cross-entropy of rows of logits and its gradient in their place, as a GPU kernel: one program a row.

A row of 128k logits doesn't fit in registers, so it is read twice: once for the sum of exponentials, once to become the
gradient. One program of 32 warps fills a multiprocessor, so the rows in work (132 × 256 KB on an H200) fit in the
second-level cache, and the second pass, which runs backwards to begin with what was read last, comes from there. What
moves through device memory is the least there is: every logit in, every gradient out.

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
LOWEST = tl.constexpr(-3.0e38)
"""Maximum of no logits: finite, since −∞ less −∞ is no number."""

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
    target = tl.load(targets_ptr + row).to(tl.int32)

    if target == IGNORED:
        tl.store(loss_ptr + row, 0.0)
        if GRADIENT:
            zero_PE = tl.zeros((P, E), logits_ptr.dtype.element_ty)
            for start in range(0, vocabulary, P * E):
                tl.store(row_ptr + start + element_PE, zero_PE, start + element_PE < vocabulary)
    else:
        top_P = tl.full((P,), LOWEST, tl.float32)
        sum_P = tl.zeros((P,), tl.float32)
        for start in range(0, whole, P * E):
            x_PE = tl.load(row_ptr + start + element_PE).to(tl.float32)
            top_P, sum_P = _add_exponentials(_exponent(x_PE, scale, softcap), top_P, sum_P)
        rest_PE = whole + element_PE
        x_PE = tl.load(row_ptr + rest_PE, rest_PE < vocabulary, other=0.0).to(tl.float32)
        exponent_PE = tl.where(rest_PE < vocabulary, _exponent(x_PE, scale, softcap), float("-inf"))
        top_P, sum_P = _add_exponentials(exponent_PE, top_P, sum_P)
        top = tl.max(top_P, axis=0)
        log2_sum = top + tl.log2(tl.sum(sum_P * tl.exp2(top_P - top), axis=0))

        # A target outside the vocabulary reads nothing and shows as NaN.
        exists = (target >= 0) & (target < vocabulary)
        at_target = tl.load(row_ptr + target, exists, other=float("nan")).to(tl.float32)
        tl.store(loss_ptr + row, (log2_sum - _exponent(at_target, scale, softcap)) * LN_2)

        if GRADIENT:
            # Every thread has read the target's logit before any writes over it.
            tl.debug_barrier()
            gradient_PE = _gradient(x_PE, rest_PE, target, log2_sum, scale, softcap)
            tl.store(row_ptr + rest_PE, gradient_PE.to(logits_ptr.dtype.element_ty), rest_PE < vocabulary)
            for back in range(P * E, whole + P * E, P * E):
                column_PE = whole - back + element_PE
                x_PE = tl.load(row_ptr + column_PE).to(tl.float32)
                gradient_PE = _gradient(x_PE, column_PE, target, log2_sum, scale, softcap)
                tl.store(row_ptr + column_PE, gradient_PE.to(logits_ptr.dtype.element_ty))


@triton.jit
def _tanh(x):
    """1 − 2/(e²ˣ + 1), right at both infinities. Near 0 its error is absolute, 1e-7, which a loss doesn't notice."""
    return 1 - 2 / (tl.exp(2 * x) + 1)


@triton.jit
def _exponent(x, scale, softcap):
    """Scaled and capped logits, times log₂ e."""
    if softcap is None:
        return x * (scale * LOG2_E)
    else:
        return _tanh(x * (scale / softcap)) * (softcap * LOG2_E)


@triton.jit
def _add_exponentials(exponent_PE, top_P, sum_P):
    """Maximum and sum of 2^(exponent − maximum) of each piece, with one more tile in them."""
    new_top_P = tl.maximum(top_P, tl.max(exponent_PE, axis=1))
    powers_P = tl.sum(tl.exp2(exponent_PE - new_top_P[:, None]), axis=1)
    return new_top_P, sum_P * tl.exp2(top_P - new_top_P) + powers_P


@triton.jit
def _gradient(x, column, target, log2_sum, scale, softcap):
    """(softmax − one-hot) · dz/dx."""
    p = tl.exp2(_exponent(x, scale, softcap) - log2_sum)
    p = tl.where(column == target, p - 1, p) * scale
    if softcap is None:
        return p
    else:
        capped = _tanh(x * (scale / softcap))
        return p * (1 - capped * capped)
