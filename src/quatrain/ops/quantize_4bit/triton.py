"""Four-bit quantization as a GPU kernel: per block the largest magnitude, then the midpoints below each quotient.

The arithmetic is the reference's, to the last bit: see there for the reciprocal, the last block and the smallest scale.

Legend: ``N`` blocks of a tile, ``P`` bytes (pairs of codes) of a block, ``E`` = 2·P elements of a block.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codebooks import ascending_codes, midpoints
from ..quantize_8bit.triton import largest_magnitude
from .reference import SMALLEST_SCALE

TILE = 4096


def quantize_4bit(x: Tensor, *, quant_type: str, block_size: int) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.quantize_4bit.quantize_4bit`; no argument is checked here."""
    flat = x.detach().reshape(-1)
    codes = torch.empty((flat.numel() + 1) // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(triton.cdiv(flat.numel(), block_size), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _kernel[(triton.cdiv(flat.numel(), TILE),)](
            flat,
            midpoints(quant_type, x.device),
            ascending_codes(quant_type, x.device),
            codes,
            scales,
            flat.numel(),
            N=TILE // block_size,
            P=block_size // 2,
            SMALLEST=SMALLEST_SCALE,
        )
    return codes, scales


@triton.jit
def _kernel(
    x_ptr,
    midpoints_ptr,
    ascending_ptr,
    codes_ptr,
    scales_ptr,
    numel,
    N: tl.constexpr,
    P: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    E: tl.constexpr = 2 * P
    first_block = tl.program_id(0).to(tl.int64) * N
    left = numel - first_block * E
    row_N = tl.arange(0, N)
    element_NE = row_N[:, None] * E + tl.arange(0, E)[None, :]
    x_NE = tl.load(x_ptr + first_block * E + element_NE, mask=element_NE < left, other=0.0).to(tl.float32)

    found_N = largest_magnitude(x_NE)
    raised_N = tl.where(found_N < SMALLEST, SMALLEST, found_N)
    is_short_N = row_N * E + E > left
    by_reciprocal_NE = x_NE * tl.div_rn(1.0, raised_N)[:, None]
    by_division_NE = tl.div_rn(x_NE, tl.broadcast_to(raised_N[:, None], (N, E)))
    quotient_NE = tl.where(is_short_N[:, None], by_division_NE, by_reciprocal_NE)

    rank_NE = tl.zeros((N, E), tl.int32)
    for i in tl.static_range(15):
        rank_NE += (quotient_NE > tl.load(midpoints_ptr + i)).to(tl.int32)
    code_NE = tl.load(ascending_ptr + rank_NE)
    high_NP, low_NP = tl.split(tl.reshape(code_NE, (N, P, 2)))

    byte_NP = row_N[:, None] * P + tl.arange(0, P)[None, :]
    tl.store(codes_ptr + first_block * P + byte_NP, (high_NP << 4) | low_NP, mask=2 * byte_NP < left)
    tl.store(scales_ptr + first_block + row_N, tl.where(is_short_N, raised_N, found_N), mask=row_N * E < left)
