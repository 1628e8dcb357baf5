"""Eight-bit dequantization as a GPU kernel: a tile of whole blocks, looked up in the 1 KB map and scaled.

Legend: ``N`` blocks of a tile, ``E`` elements of a block.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codebooks import dynamic_map

TILE = 4096


def dequantize_8bit(codes: Tensor, scales: Tensor, *, block_size: int, signed: bool, dtype: torch.dtype) -> Tensor:
    """See :func:`quatrain.ops.dequantize_8bit.dequantize_8bit`; no argument is checked here."""
    out = torch.empty(codes.numel(), dtype=dtype, device=codes.device)
    blocks_per_tile = TILE // block_size
    with torch.cuda.device_of(codes):
        _kernel[(triton.cdiv(codes.numel(), TILE),)](
            codes, scales, dynamic_map(signed, codes.device), out, codes.numel(), N=blocks_per_tile, E=block_size
        )
    return out


@triton.jit
def _kernel(codes_ptr, scales_ptr, map_ptr, out_ptr, numel, N: tl.constexpr, E: tl.constexpr):
    first_block = tl.program_id(0).to(tl.int64) * N
    left = numel - first_block * E
    row_N = tl.arange(0, N)[:, None]
    element_NE = row_N * E + tl.arange(0, E)[None, :]
    codes_NE = tl.load(codes_ptr + first_block * E + element_NE, mask=element_NE < left, other=0)
    scale_N1 = tl.load(scales_ptr + first_block + row_N, mask=row_N * E < left, other=0.0)
    value_NE = tl.load(map_ptr + codes_NE.to(tl.int32)) * scale_N1
    tl.store(out_ptr + first_block * E + element_NE, value_NE.to(out_ptr.dtype.element_ty), mask=element_NE < left)
