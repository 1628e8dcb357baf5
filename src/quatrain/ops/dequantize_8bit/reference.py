"""Eight-bit dequantization in plain PyTorch: look each code up in the map, multiply by its block's scale."""

import torch
from torch import Tensor

from ..codebooks import dynamic_map


def dequantize_8bit(codes: Tensor, scales: Tensor, *, block_size: int, signed: bool, dtype: torch.dtype) -> Tensor:
    """See :func:`quatrain.ops.dequantize_8bit.dequantize_8bit`; no argument is checked here."""
    values = dynamic_map(signed, codes.device).index_select(0, codes.int())
    whole = codes.numel() // block_size
    values[: whole * block_size].view(whole, block_size).mul_(scales[:whole].unsqueeze(1))
    values[whole * block_size :].mul_(scales[whole:])
    return values.to(dtype)
