"""Quantize a tensor to 8-bit codes of the dynamic map with one float32 scale per block."""

from jaxtyping import Float, UInt8
from torch import Tensor

from ..checks import check_block_size, check_finite_scales, check_float, check_not_empty
from ..dispatch import use_triton
from . import reference


def quantize_8bit(
    x: Float[Tensor, "..."],
    *,
    block_size: int = 256,
    signed: bool = True,
    offset: Float[Tensor, ""] | None = None,
    check_finite: bool = True,
) -> tuple[UInt8[Tensor, " n"], Float[Tensor, " blocks"]]:
    """Quantize ``x`` (less ``offset``, a float32 scalar on its device), row-major, in blocks of ``block_size`` values.

    Returns ``codes`` uint8 [n] and ``scales`` float32 [⌈n/block_size⌉], the largest magnitude of each block. ``signed``
    chooses the dynamic map with or without negative values; without, negative elements become zero. Codes and scales
    equal those of bitsandbytes' CPU library byte for byte.

    Raises QuantizationError if ``x`` is empty, not float32/bfloat16/float16, or holds a NaN or an infinity. Seeing the
    last waits for the device; with ``check_finite=False`` the caller looks at the scales, where it shows.
    """
    check_block_size(block_size)
    check_float("A tensor to quantize", x.dtype)
    check_not_empty(x)
    if use_triton(x):
        from . import triton

        codes, scales = triton.quantize_8bit(x, block_size=block_size, signed=signed, offset=offset)
    else:
        codes, scales = reference.quantize_8bit(x, block_size=block_size, signed=signed, offset=offset)
    if check_finite:
        check_finite_scales(scales)
    return codes, scales
