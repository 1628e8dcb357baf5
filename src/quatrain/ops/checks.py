"""What every block-wise operation asks of its arguments, said once."""

import torch
from torch import Tensor

from quatrain.errors import QuantizationError

from .codebooks import QUANT_TYPES

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check_quant_type(quant_type: str) -> None:
    if quant_type not in QUANT_TYPES:
        raise QuantizationError(f"quant_type must be one of {', '.join(QUANT_TYPES)}, got {quant_type!r}.")


def check_block_size(block_size: int) -> None:
    if block_size not in BLOCK_SIZES:
        raise QuantizationError(
            f"block_size must be one of {', '.join(map(str, BLOCK_SIZES))}, got {block_size!r}. "
            "64 is the default; larger blocks take less memory and lose precision."
        )


def check_float(what: str, dtype: torch.dtype) -> None:
    if dtype not in FLOATS:
        raise QuantizationError(f"{what} must be float32, bfloat16 or float16, got {dtype}. Convert it first.")


def check_not_empty(x: Tensor) -> None:
    if x.numel() == 0:
        raise QuantizationError(f"A tensor to quantize needs at least one element, got shape {tuple(x.shape)}.")


def check_finite_scales(scales: Tensor) -> None:
    """One wait for the device per weight: a NaN or Inf anywhere in a block shows in its scale."""
    finite = scales.isfinite()
    if not finite.all():
        bad = int((~finite).sum())
        raise QuantizationError(
            f"A tensor to quantize must be finite; {bad} of its {scales.numel()} blocks hold a NaN or an infinity. "
            "The weights are damaged, or overflowed when they were cast to float16."
        )


def check_bytes(what: str, tensor: Tensor, expected: int) -> None:
    """``tensor`` must be a contiguous run of ``expected`` uint8 values."""
    if tensor.dtype != torch.uint8 or tensor.numel() != expected or not tensor.is_contiguous():
        raise QuantizationError(
            f"{what} must be {expected} contiguous uint8 values, got {tensor.numel()} of {tensor.dtype}"
            f"{'' if tensor.is_contiguous() else ', not contiguous'}. They don't belong to this shape and block size."
        )


def check_scales(what: str, tensor: Tensor, expected: int) -> None:
    """``tensor`` must be a contiguous run of ``expected`` float32 values."""
    if tensor.dtype != torch.float32 or tensor.numel() != expected or not tensor.is_contiguous():
        raise QuantizationError(
            f"{what} must be {expected} contiguous float32 values, got {tensor.numel()} of {tensor.dtype}"
            f"{'' if tensor.is_contiguous() else ', not contiguous'}. They don't belong to this shape and block size."
        )
