"""Four-bit dequantization in plain PyTorch, fast enough for training on a CPU.

A byte holds two codes, so a table of 256 *pairs* of float32 values, seen as 256 int64, gives two numbers per look-up. That
is half as many look-ups, no shifts and masks, and the table stays in the first-level cache.

The product is taken in float32 and rounded once; taking it in bfloat16 would be faster and wrong in the last bit.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..codebooks import codebook
from ..dequantize_8bit.reference import dequantize_8bit

NESTED_BLOCK_SIZE = 256


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
    if nested is not None:
        scales = undo_double_quantization(scales, nested.scales, nested.offset)
    pairs = _pairs(quant_type, codes.device).index_select(0, codes.int())
    values = pairs.view(torch.float32)[:numel]
    whole = numel // block_size
    values[: whole * block_size].view(whole, block_size).mul_(scales[:whole].unsqueeze(1))
    values[whole * block_size :].mul_(scales[whole:])
    return values.to(dtype) if out is None else out.copy_(values)


def undo_double_quantization(codes: Tensor, nested_scales: Tensor, offset: Tensor) -> Tensor:
    """The float32 scales [blocks] that 8-bit ``codes`` [blocks] stand for."""
    centred = dequantize_8bit(codes, nested_scales, block_size=NESTED_BLOCK_SIZE, signed=True, dtype=torch.float32)
    return centred.add_(offset)


@cache
def _pairs(quant_type: str, device: torch.device) -> Tensor:
    """For each byte the values of its high and its low nibble, two float32 seen as one int64 [256]."""
    byte = torch.arange(256, device="cpu")
    values = codebook(quant_type)
    return torch.stack([values[byte >> 4], values[byte & 15]], dim=1).view(torch.int64).view(256).to(device)
