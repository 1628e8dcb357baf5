"""The tail as one GPU kernel: a program writes all columns of some rows.

Up to three adapters overlap nowhere, so an element is the sum of three masked loads of which at most one isn't zero;
adapters that aren't there have no rows.

Legend: ``N`` rows of a program, ``R`` columns (a power of two).
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportCallIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 2048


def adapter_tail(out_NR: Tensor, parts: tuple[Any, ...], *, bias_N: Tensor | None, bias_column: int) -> None:
    """See :func:`quatrain.ops.adapter_tail.adapter_tail`; no argument is checked here."""
    rows, columns = out_NR.shape
    width = triton.next_power_of_2(columns)
    per_program = max(1, _ELEMENTS // width)
    places: list[Any] = []
    for i in range(3):
        if i < len(parts):
            b_NR, row, column, scale = parts[i]
            places += [b_NR, row, row + b_NR.shape[0], column, b_NR.shape[1], scale]
        else:
            places += [out_NR, 0, 0, 0, 0, 0.0]
    with torch.cuda.device_of(out_NR):
        _tail_kernel[(triton.cdiv(rows, per_program),)](
            out_NR,
            out_NR.stride(0),
            rows,
            columns,
            *places,
            bias_N if bias_N is not None else out_NR,
            bias_column,
            BIASED=bias_N is not None,
            PARTS=len(parts),
            N=per_program,
            R=width,
        )


@triton.jit
def _tail_kernel(
    out_ptr,
    row_stride,
    rows,
    columns,
    b0_ptr,
    first0,
    end0,
    column0,
    rank0,
    scale0,
    b1_ptr,
    first1,
    end1,
    column1,
    rank1,
    scale1,
    b2_ptr,
    first2,
    end2,
    column2,
    rank2,
    scale2,
    bias_ptr,
    bias_column,
    BIASED: tl.constexpr,
    PARTS: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
):
    row_N1 = (tl.program_id(0) * N + tl.arange(0, N))[:, None]
    column_1R = tl.arange(0, R)[None, :]
    value_NR = tl.zeros((N, R), tl.float32)
    if PARTS > 0:
        value_NR += _part(b0_ptr, row_N1, column_1R, first0, end0, column0, rank0) * scale0
    if PARTS > 1:
        value_NR += _part(b1_ptr, row_N1, column_1R, first1, end1, column1, rank1) * scale1
    if PARTS > 2:
        value_NR += _part(b2_ptr, row_N1, column_1R, first2, end2, column2, rank2) * scale2
    if BIASED:
        here_NR = (row_N1 < rows) & (column_1R == bias_column)
        value_NR += tl.load(bias_ptr + row_N1 + 0 * column_1R, mask=here_NR, other=0.0).to(tl.float32)
    place_NR = row_N1.to(tl.int64) * row_stride + column_1R
    inside_NR = (row_N1 < rows) & (column_1R < columns)
    tl.store(out_ptr + place_NR, value_NR.to(out_ptr.dtype.element_ty), mask=inside_NR)


@triton.jit
def _part(b_ptr, row_N1, column_1R, first, end, column, rank):
    """The adapter's own elements; zeros outside of its rows and columns."""
    inside_NR = (row_N1 >= first) & (row_N1 < end) & (column_1R >= column) & (column_1R < column + rank)
    place_NR = (row_N1 - first) * rank + (column_1R - column)
    return tl.load(b_ptr + place_NR, mask=inside_NR, other=0.0).to(tl.float32)
