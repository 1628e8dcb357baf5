"""Eight-bit quantization as a GPU kernel: per block the largest magnitude, then a binary search among 255 thresholds.

The search takes eight dependent reads of a 1 KB table that stays in the first-level cache. Using the reference's
thresholds instead of distances to the two neighbours makes both twins agree to the last bit.

Legend: ``N`` blocks of a tile, ``E`` elements of a block.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import thresholds

TILE = 4096


def quantize_8bit(x: Tensor, *, block_size: int, signed: bool, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.quantize_8bit.quantize_8bit`; no argument is checked here."""
    flat = x.detach().reshape(-1)
    codes = torch.empty(flat.numel(), dtype=torch.uint8, device=x.device)
    scales = torch.empty(triton.cdiv(flat.numel(), block_size), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _kernel[(triton.cdiv(flat.numel(), TILE),)](
            flat,
            flat if offset is None else offset,
            thresholds(signed, x.device),
            codes,
            scales,
            flat.numel(),
            N=TILE // block_size,
            E=block_size,
            CENTRED=offset is not None,
        )
    return codes, scales


@triton.jit
def largest_magnitude(x_NE):
    """Largest |x| of each row [N], by bit pattern: floats of one sign and their bits ascend together, NaN on top."""
    bits_NE = x_NE.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.max(bits_NE, axis=1).to(tl.float32, bitcast=True)


@triton.jit
def nearest_8bit_code(quotient, thresholds_ptr):
    """The number (int32) of the 255 ascending thresholds that each ``quotient`` has reached; 0 for NaN."""
    code = tl.zeros_like(quotient).to(tl.int32)
    for bit in tl.static_range(8):
        candidate = code + (128 >> bit)
        code = tl.where(quotient >= tl.load(thresholds_ptr + candidate - 1), candidate, code)
    return code


@triton.jit
def _kernel(
    x_ptr,
    offset_ptr,
    thresholds_ptr,
    codes_ptr,
    scales_ptr,
    numel,
    N: tl.constexpr,
    E: tl.constexpr,
    CENTRED: tl.constexpr,
):
    first_block = tl.program_id(0).to(tl.int64) * N
    left = numel - first_block * E
    row_N = tl.arange(0, N)
    element_NE = row_N[:, None] * E + tl.arange(0, E)[None, :]
    x_NE = tl.load(x_ptr + first_block * E + element_NE, mask=element_NE < left, other=0.0).to(tl.float32)
    if CENTRED:
        x_NE = tl.where(element_NE < left, x_NE - tl.load(offset_ptr), 0.0)
    scale_N = largest_magnitude(x_NE)
    quotient_NE = x_NE * tl.div_rn(1.0, scale_N)[:, None]
    code_NE = nearest_8bit_code(quotient_NE, thresholds_ptr)
    tl.store(codes_ptr + first_block * E + element_NE, code_NE.to(tl.uint8), mask=element_NE < left)
    tl.store(scales_ptr + first_block + row_N, scale_N, mask=row_N * E < left)
