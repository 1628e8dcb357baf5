"""Rotary position embedding as a GPU kernel: a token's angles are read once for all its heads.

Bound by memory: each element is read and written once. A thread holds 16 bytes of the first half and the matching 16
of the second.

Legend: ``N`` tokens of a program, ``A`` heads of a program, ``E`` half of the rotated width, ``B`` E rounded up to a
power of two.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor


def rotary_(x_TAD: Tensor, positions_T: Tensor, cos_PE: Tensor, sin_PE: Tensor, *, inverse: bool = False) -> None:
    """See :func:`quatrain.ops.rotary.rotary_`; no argument is checked here."""
    tokens, heads, _ = x_TAD.shape
    if x_TAD.numel() == 0:
        return
    launch = _launch(heads, cos_PE.shape[1])
    with torch.cuda.device_of(x_TAD):
        _kernel[(triton.cdiv(tokens, launch["N"]) * triton.cdiv(heads, launch["A"]),)](
            x_TAD,
            positions_T,
            cos_PE,
            sin_PE,
            tokens,
            heads,
            x_TAD.stride(0),
            x_TAD.stride(1),
            INVERSE=inverse,
            **launch,
        )


def _launch(heads: int, half: int) -> dict[str, int]:
    """Two tokens and up to 8 heads a program, 16 elements of each half a thread."""
    block, group = triton.next_power_of_2(half), min(8, triton.next_power_of_2(heads))
    return {"N": 2, "A": group, "E": half, "B": block, "num_warps": max(1, 2 * group * block // 512)}


@triton.jit
def _kernel(
    x_ptr,
    positions_ptr,
    cos_ptr,
    sin_ptr,
    tokens,
    heads,
    token_stride,
    head_stride,
    INVERSE: tl.constexpr,
    N: tl.constexpr,
    A: tl.constexpr,
    E: tl.constexpr,
    B: tl.constexpr,
):
    # Heads first: neighbours in time are neighbours in memory, and read the same angles.
    groups = tl.cdiv(heads, A)
    token_N = (tl.program_id(0) // groups).to(tl.int64) * N + tl.arange(0, N)
    head_A = tl.program_id(0) % groups * A + tl.arange(0, A)
    column_B = tl.arange(0, B)

    position_N = tl.load(positions_ptr + token_N, token_N < tokens, other=0)
    angle_NB = position_N[:, None] * E + column_B[None, :]
    mask_NB = (token_N < tokens)[:, None] & (column_B < E)[None, :]
    cos_N1B = tl.load(cos_ptr + angle_NB, mask_NB, other=0.0)[:, None, :]
    sin_N1B = tl.load(sin_ptr + angle_NB, mask_NB, other=0.0)[:, None, :]
    if INVERSE:
        sin_N1B = -sin_N1B

    row_NA1 = (token_N[:, None] * token_stride + head_A[None, :] * head_stride)[:, :, None]
    first_NAB = x_ptr + row_NA1 + column_B[None, None, :]
    second_NAB = first_NAB + E
    mask_NAB = mask_NB[:, None, :] & (head_A < heads)[None, :, None]
    a_NAB = tl.load(first_NAB, mask_NAB, other=0.0).to(tl.float32)
    b_NAB = tl.load(second_NAB, mask_NAB, other=0.0).to(tl.float32)
    tl.store(first_NAB, (a_NAB * cos_N1B - b_NAB * sin_N1B).to(x_ptr.dtype.element_ty), mask_NAB)
    tl.store(second_NAB, (b_NAB * cos_N1B + a_NAB * sin_N1B).to(x_ptr.dtype.element_ty), mask_NAB)
