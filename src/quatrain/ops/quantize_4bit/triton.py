"""Four-bit quantization as a GPU kernel: a block's largest magnitude, then each quotient's place among 15 midpoints.

The arithmetic is the reference's, to the last bit: see there for the reciprocal, the last block and the smallest scale.

Two bytes come in and half a byte goes out per element, so what counts is the number of instructions between them.
Fifteen comparisons take too many, and so does a binary search in registers, which has to select each midpoint. Instead
[-1, 1] is cut into 32 equal cells, so narrow that none holds two midpoints: one product finds the cell, and one read
of a 256-byte table in the first-level cache gives the midpoint in it and the codes on both sides of it. Sizes that
fill their tiles, which is nearly every weight, are compiled without masks and without the last block's division.

Legend: ``N`` blocks of a tile, ``P`` bytes (pairs of codes) of a block, ``E`` = 2·P elements of a block.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

import math
import struct
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codebooks import ascending_codes, midpoints
from ..quantize_8bit.triton import largest_magnitude
from .reference import SMALLEST_SCALE

TILE = 2048
"""Elements of a program, or one block where that is larger. Few, and one warp for them, so that while some programs
wait for memory, many others compute."""

CELLS_PER_UNIT = 15.9999
"""Quotient q lies in cell ⌊(q + 1)·15.9999⌋, 0 to 31; with 16, one would lie in a 33rd. The border in the middle is
at 6·10⁻⁶. So FP4's midpoints ±0.0026 are in two cells, but the one between its two zeros has to be looked at apart.
"""


def quantize_4bit(x: Tensor, *, quant_type: str, block_size: int) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.quantize_4bit.quantize_4bit`; no argument is checked here."""
    flat = x.detach().reshape(-1)
    codes = torch.empty((flat.numel() + 1) // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(triton.cdiv(flat.numel(), block_size), dtype=torch.float32, device=x.device)
    tile = max(TILE, block_size)
    with torch.cuda.device_of(x):
        _kernel[(triton.cdiv(flat.numel(), tile),)](
            flat,
            _cells(quant_type, x.device),
            codes,
            scales,
            flat.numel(),
            N=tile // block_size,
            P=block_size // 2,
            FULL=flat.numel() % tile == 0,
            SMALLEST=SMALLEST_SCALE,
            PER_UNIT=CELLS_PER_UNIT,
            TWO_ZEROS=quant_type == "fp4",
            num_warps=tile // TILE,
            enable_fp_fusion=False,
        )
    return codes, scales


@cache
def _cells(quant_type: str, device: torch.device) -> Tensor:
    """For each cell an int64: above, the lowest midpoint in it (or infinity); below, the two codes beside it."""
    borders, codes = midpoints(quant_type).tolist(), ascending_codes(quant_type).tolist()
    cell_of = [int((border + 1) * CELLS_PER_UNIT) for border in borders]
    entries = []
    for cell in range(32):
        rank = sum(other < cell for other in cell_of)
        inside = cell in cell_of
        pair = codes[rank] | codes[rank + inside] << 4
        entries += struct.unpack("<q", struct.pack("<If", pair, borders[rank] if inside else math.inf))
    return torch.tensor(entries, dtype=torch.int64, device=device)


@triton.jit
def _kernel(
    x_ptr,
    cells_ptr,
    codes_ptr,
    scales_ptr,
    numel,
    N: tl.constexpr,
    P: tl.constexpr,
    FULL: tl.constexpr,
    SMALLEST: tl.constexpr,
    PER_UNIT: tl.constexpr,
    TWO_ZEROS: tl.constexpr,
):
    E: tl.constexpr = 2 * P
    first_block = tl.program_id(0).to(tl.int64) * N
    left = numel - first_block * E
    row_N = tl.arange(0, N)
    element_NE = row_N[:, None] * E + tl.arange(0, E)[None, :]
    byte_NP = row_N[:, None] * P + tl.arange(0, P)[None, :]
    mask_N = None if FULL else row_N * E < left
    mask_NP = None if FULL else 2 * byte_NP < left
    mask_NE = None if FULL else element_NE < left
    zero = None if FULL else 0.0
    x_NE = tl.load(x_ptr + first_block * E + element_NE, mask=mask_NE, other=zero).to(tl.float32)

    scale_N = largest_magnitude(x_NE)
    raised_N = tl.where(scale_N < SMALLEST, SMALLEST, scale_N)
    quotient_NE = x_NE * tl.div_rn(1.0, raised_N)[:, None]
    if not FULL:
        is_short_N = row_N * E + E > left
        divided_NE = tl.div_rn(x_NE, tl.broadcast_to(raised_N[:, None], (N, E)))
        quotient_NE = tl.where(is_short_N[:, None], divided_NE, quotient_NE)
        scale_N = tl.where(is_short_N, raised_N, scale_N)

    # The maximum sends NaN to cell 0; a quotient that isn't NaN is never beyond ±1 by more than a rounding.
    cell_NE = tl.maximum(tl.fma(quotient_NE, PER_UNIT, PER_UNIT), 0.0).to(tl.uint32)
    entry_NE = tl.load(cells_ptr + cell_NE)
    midpoint_NE = (entry_NE >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    pair_NE = entry_NE.to(tl.int32)
    code_NE = tl.where(quotient_NE > midpoint_NE, pair_NE >> 4, pair_NE) & 15
    if TWO_ZEROS:
        code_NE = tl.where((code_NE == 0) & (quotient_NE > 0.0), 8, code_NE)
    high_NP, low_NP = tl.split(tl.reshape(code_NE, (N, P, 2)))
    tl.store(codes_ptr + first_block * P + byte_NP, (high_NP * 16 + low_NP).to(tl.uint8), mask=mask_NP)
    tl.store(scales_ptr + first_block + row_N, scale_N, mask=mask_N)
