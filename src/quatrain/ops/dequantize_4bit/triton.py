"""Four-bit dequantization as one GPU kernel, double quantization undone on the way.

The operation is bound by memory: half a byte in, two bytes out. So a program takes a tile of whole blocks, reads its codes
in 16-byte pieces, reads each scale once a row, and looks codes up in the 64-byte codebook, which lies in the first-level
cache: 16 addresses of one cache line serve a warp at once, whereas a tree of 15 selections per code would make the
kernel bound by arithmetic.

Legend: ``N`` blocks of a tile, ``P`` bytes (pairs of codes) of a block, ``E`` = 2·P elements of a block.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codebooks import codebook, dynamic_map
from .reference import NESTED_BLOCK_SIZE

TILE_BYTES = 2048


def dequantize_4bit(
    codes: Tensor,
    scales: Tensor,
    *,
    numel: int,
    quant_type: str,
    block_size: int,
    dtype: torch.dtype,
    nested: Any = None,
    out: Tensor | None = None,
) -> Tensor:
    """See :func:`quatrain.ops.dequantize_4bit.dequantize_4bit`; no argument is checked here."""
    if out is None:
        out = torch.empty(numel, dtype=dtype, device=codes.device)
    bytes_per_block = block_size // 2
    blocks_per_tile = max(1, TILE_BYTES // bytes_per_block)
    with torch.cuda.device_of(codes):
        _kernel[(triton.cdiv(numel, blocks_per_tile * block_size),)](
            codes,
            scales,
            scales if nested is None else nested.scales,
            scales if nested is None else nested.offset,
            codebook(quant_type, codes.device),
            dynamic_map(True, codes.device),
            out,
            numel,
            N=blocks_per_tile,
            P=bytes_per_block,
            NESTED=nested is not None,
            NESTED_BLOCK=NESTED_BLOCK_SIZE,
            # A fused multiply-add would round product and offset once; the format rounds twice.
            enable_fp_fusion=False,
        )
    return out


@triton.jit
def _kernel(
    codes_ptr,
    scales_ptr,
    nested_scales_ptr,
    offset_ptr,
    codebook_ptr,
    map_ptr,
    out_ptr,
    numel,
    N: tl.constexpr,
    P: tl.constexpr,
    NESTED: tl.constexpr,
    NESTED_BLOCK: tl.constexpr,
):
    E: tl.constexpr = 2 * P
    first_block = tl.program_id(0).to(tl.int64) * N
    left = numel - first_block * E
    row_N = tl.arange(0, N)[:, None]

    byte_NP = row_N * P + tl.arange(0, P)[None, :]
    codes_NP = tl.load(codes_ptr + first_block * P + byte_NP, mask=2 * byte_NP < left, other=0)
    high_NP = tl.load(codebook_ptr + (codes_NP >> 4).to(tl.int32))
    low_NP = tl.load(codebook_ptr + (codes_NP & 15).to(tl.int32))

    block_N1 = first_block + row_N
    exists_N1 = row_N * E < left
    scale_N1 = tl.load(scales_ptr + block_N1, mask=exists_N1, other=0)
    if NESTED:
        centred_N1 = tl.load(map_ptr + scale_N1.to(tl.int32))
        centred_N1 *= tl.load(nested_scales_ptr + block_N1 // NESTED_BLOCK, mask=exists_N1, other=0.0)
        scale_N1 = centred_N1 + tl.load(offset_ptr)

    element_NE = row_N * E + tl.arange(0, E)[None, :]
    value_NE = tl.interleave(high_NP * scale_N1, low_NP * scale_N1)
    tl.store(out_ptr + first_block * E + element_NE, value_NE.to(out_ptr.dtype.element_ty), mask=element_NE < left)
