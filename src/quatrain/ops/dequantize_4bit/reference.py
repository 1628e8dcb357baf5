"""Four-bit dequantization in plain PyTorch, fast enough for training on a CPU.

A byte holds two codes, so it is looked up whole, in a table of 256 *pairs* of float32 values; complex64 is PyTorch's
name for such a pair. That is half as many look-ups, no shifts and masks, and the table stays in the first-level
cache. Of the ways to look up (``index_select``, ``take``, indexing, ``embedding``, ``gather``) only ``gather``, with
a row per block, is both quick and spread over the cores.

The product is taken in float32 and rounded once; taking it in bfloat16 would be faster and wrong in the last bit.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..codebooks import codebook
from ..dequantize_8bit.reference import dequantize_8bit

NESTED_BLOCK_SIZE = 256

_ELEMENTS_AT_ONCE = 1 << 20
"""Keeps the temporaries of a large weight at 8 MB: within the cache, and far below the weight itself."""


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
    if out is not None and out.dim() == 2:
        flat = dequantize_4bit(
            codes, scales, numel=numel, quant_type=quant_type, block_size=block_size, dtype=dtype, nested=nested
        )
        return out.copy_(flat.view(out.shape))
    if nested is not None:
        scales = undo_double_quantization(scales, nested.scales, nested.offset)
    if out is None:
        out = torch.empty(numel, dtype=dtype, device=codes.device)
    pairs = _pairs(quant_type, codes.device)
    whole = numel // block_size
    split = whole * block_size
    bytes_in_blocks = codes[: split // 2].view(whole, block_size // 2)
    out_in_blocks = out[:split].view(whole, block_size)
    step = _ELEMENTS_AT_ONCE // block_size
    for start in range(0, whole, step):
        rows = slice(start, min(start + step, whole))
        index = bytes_in_blocks[rows].long()
        values = torch.view_as_real(pairs.expand(len(index), 256).gather(1, index)).view(-1, block_size)
        out_in_blocks[rows] = values.mul_(scales[rows].unsqueeze(1))
    if split < numel:
        values = torch.view_as_real(pairs[codes[split // 2 :].long()]).view(-1)
        out[split:] = values[: numel - split] * scales[whole]
    return out


def undo_double_quantization(codes: Tensor, nested_scales: Tensor, offset: Tensor) -> Tensor:
    """The float32 scales [blocks] that 8-bit ``codes`` [blocks] stand for."""
    centred = dequantize_8bit(codes, nested_scales, block_size=NESTED_BLOCK_SIZE, signed=True, dtype=torch.float32)
    return centred.add_(offset)


@cache
def _pairs(quant_type: str, device: torch.device) -> Tensor:
    """For each byte the values of its high and its low nibble, as complex64 [256]."""
    byte = torch.arange(256, device="cpu")
    values = codebook(quant_type)
    return torch.complex(values[byte >> 4], values[byte & 15]).to(device)
