"""x·Aᵀ of a few rows as a GPU kernel: a program has 16 rows of A and a run of columns.

Legend: ``S`` runs, ``M`` rows of x padded for the tensor cores, ``R`` rows of A of a program, ``C`` columns of a tile.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

RUN = 1024
"""Columns of a run: 32 KiB of A, what one processor reads in about the time that a launch takes."""
R = 16
TILE_BYTES = 512
"""Of a row of x or A."""


def low_rank_sums(x_MK: Tensor, a_RK: Tensor) -> Tensor:
    """See :func:`quatrain.ops.low_rank_sums.low_rank_sums`."""
    rows, columns = x_MK.shape
    rank, runs = len(a_RK), triton.cdiv(columns, RUN)
    sums_SMR = torch.empty(runs, rows, rank, dtype=torch.float32, device=x_MK.device)
    with torch.cuda.device_of(x_MK):
        _kernel[(triton.cdiv(rank, R), runs)](
            x_MK,
            a_RK,
            sums_SMR,
            rows,
            rank,
            columns,
            x_MK.stride(0),
            M=max(16, triton.next_power_of_2(rows)),
            R=R,
            C=TILE_BYTES // x_MK.element_size(),
            RUN=RUN,
            num_stages=2,
        )
    return sums_SMR


@triton.jit
def _kernel(
    x_ptr,
    a_ptr,
    sums_ptr,
    rows,
    rank,
    columns,
    x_stride,
    M: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    RUN: tl.constexpr,
):
    run = tl.program_id(1)
    row_M, rank_R, column_C = tl.arange(0, M), tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, C)
    sums_MR = tl.zeros((M, R), tl.float32)
    for start in range(run * RUN, (run + 1) * RUN, C):
        here_C = start + column_C
        x_MC = tl.load(
            x_ptr + row_M[:, None] * x_stride + here_C[None, :],
            (row_M < rows)[:, None] & (here_C < columns)[None, :],
            other=0.0,
        )
        a_RC = tl.load(
            a_ptr + rank_R[:, None] * columns + here_C[None, :],
            (rank_R < rank)[:, None] & (here_C < columns)[None, :],
            other=0.0,
        )
        sums_MR = tl.dot(x_MC, tl.trans(a_RC), sums_MR, input_precision="ieee")
    place_MR = (run * rows + row_M[:, None]) * rank + rank_R[None, :]
    tl.store(sums_ptr + place_MR, sums_MR, (row_M < rows)[:, None] & (rank_R < rank)[None, :])
