"""Four-bit dequantization as one GPU kernel, double quantization undone on the way.

The operation is bound by memory: half a byte in, two bytes out. So a program takes a tile of whole blocks, reads its
codes in 16-byte pieces, reads each scale once a row, and looks codes up in the 64-byte codebook, which lies in the
first-level cache: 16 addresses of one cache line serve a warp at once. (``tl.gather`` from registers is as fast; a
table of pairs by byte spans 16 cache lines and is slower; a tree of 15 selections a code is bound by arithmetic.)
Masks cost a sixth of the speed, so sizes that fill their tiles, which is nearly every weight, are compiled without
them. Where the rows of ``out`` lie apart, each block looks up its row by a division; with the blocks of a row known to
the compiler that is a multiplication, and the kernel as fast as before.

Legend: ``N`` blocks of a tile, ``P`` bytes (pairs of codes) of a block, ``E`` = 2·P elements of a block.
"""

# Triton's decorators and constexprs are opaque to a type checker.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codebooks import codebook, dynamic_map
from .reference import NESTED_BLOCK_SIZE

TILE = 4096


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
    columns = 0 if out.is_contiguous() else out.shape[1]
    if columns % block_size:  # blocks run over the ends of rows: no weight of a common model
        flat = dequantize_4bit(
            codes, scales, numel=numel, quant_type=quant_type, block_size=block_size, dtype=dtype, nested=nested
        )
        return out.copy_(flat.view(out.shape))
    with torch.cuda.device_of(codes):
        _kernel[(triton.cdiv(numel, TILE),)](
            codes,
            scales,
            scales if nested is None else nested.scales,
            scales if nested is None else nested.offset,
            codebook(quant_type, codes.device),
            dynamic_map(True, codes.device),
            out,
            numel,
            out.stride(0) if columns else 0,
            BLOCKS_OF_A_ROW=columns // block_size,
            N=TILE // block_size,
            P=block_size // 2,
            FULL=numel % TILE == 0,
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
    row_stride,
    BLOCKS_OF_A_ROW: tl.constexpr,
    N: tl.constexpr,
    P: tl.constexpr,
    FULL: tl.constexpr,
    NESTED: tl.constexpr,
    NESTED_BLOCK: tl.constexpr,
):
    E: tl.constexpr = 2 * P
    first_block = tl.program_id(0).to(tl.int64) * N
    left = numel - first_block * E
    row_N1 = tl.arange(0, N)[:, None]
    byte_NP = row_N1 * P + tl.arange(0, P)[None, :]
    element_NE = row_N1 * E + tl.arange(0, E)[None, :]
    mask_N1 = None if FULL else row_N1 * E < left
    mask_NP = None if FULL else 2 * byte_NP < left
    mask_NE = None if FULL else element_NE < left

    codes_NP = tl.load(codes_ptr + first_block * P + byte_NP, mask=mask_NP)
    high_NP = tl.load(codebook_ptr + (codes_NP >> 4).to(tl.int32))
    low_NP = tl.load(codebook_ptr + (codes_NP & 15).to(tl.int32))

    scale_N1 = tl.load(scales_ptr + first_block + row_N1, mask=mask_N1)
    if NESTED:
        nested_N1 = tl.load(nested_scales_ptr + (first_block + row_N1) // NESTED_BLOCK, mask=mask_N1)
        scale_N1 = tl.load(map_ptr + scale_N1.to(tl.int32)) * nested_N1 + tl.load(offset_ptr)

    value_NE = tl.interleave(high_NP * scale_N1, low_NP * scale_N1)
    if BLOCKS_OF_A_ROW:
        block_N1 = tl.program_id(0) * N + row_N1
        out_row_N1 = block_N1 // BLOCKS_OF_A_ROW
        start_N1 = out_row_N1.to(tl.int64) * row_stride + (block_N1 - out_row_N1 * BLOCKS_OF_A_ROW) * E
        out_NE = start_N1 + tl.arange(0, E)[None, :]
    else:
        out_NE = first_block * E + element_NE
    tl.store(out_ptr + out_NE, value_NE.to(out_ptr.dtype.element_ty), mask=mask_NE)
