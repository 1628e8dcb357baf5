"""Turn 8-bit codes of the dynamic map back into numbers."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..checks import check_block_size, check_bytes, check_float, check_scales
from ..dispatch import use_triton
from . import reference


def dequantize_8bit(
    codes: UInt8[Tensor, " n"],
    scales: Float[Tensor, " blocks"],
    *,
    block_size: int = 256,
    signed: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " n"]:
    """``dynamic_map[codes] · scales`` [n], multiplied in float32 and rounded once to ``dtype``.

    ``codes`` is uint8 [n] and ``scales`` float32 [⌈n/block_size⌉]; raises QuantizationError if they don't fit together.
    """
    check_block_size(block_size)
    check_float("dtype", dtype)
    check_bytes("codes", codes, codes.numel())
    check_scales("scales", scales, -(-codes.numel() // block_size))
    if use_triton(codes):
        from . import triton

        return triton.dequantize_8bit(codes, scales, block_size=block_size, signed=signed, dtype=dtype)
    return reference.dequantize_8bit(codes, scales, block_size=block_size, signed=signed, dtype=dtype)
