"""Quantize a tensor to 4-bit codes with one float32 scale per block."""

from jaxtyping import Float, UInt8
from torch import Tensor

from ..checks import check_block_size, check_finite_scales, check_float, check_not_empty, check_quant_type
from ..dispatch import use_triton
from . import reference


def quantize_4bit(
    x: Float[Tensor, "..."], *, quant_type: str = "nf4", block_size: int = 64, check_finite: bool = True
) -> tuple[UInt8[Tensor, " bytes"], Float[Tensor, " blocks"]]:
    """Quantize ``x``, read in row-major order, in blocks of ``block_size`` values.

    Returns ``codes`` uint8 [⌈n/2⌉], two codes a byte with the even element in the high nibble, and ``scales`` float32
    [⌈n/block_size⌉], the largest magnitude of each block. Codes and scales equal bitsandbytes' byte for byte.

    Raises QuantizationError if ``x`` is empty, not float32/bfloat16/float16, holds a NaN or an infinity, or if the
    block size or type isn't allowed. Seeing a NaN or an infinity waits for the device; with ``check_finite=False`` the
    caller looks at the scales, later and for many tensors at once: what isn't finite in a block shows in its scale.
    """
    check_quant_type(quant_type)
    check_block_size(block_size)
    check_float("A tensor to quantize", x.dtype)
    check_not_empty(x)
    if use_triton(x):
        from . import triton

        codes, scales = triton.quantize_4bit(x, quant_type=quant_type, block_size=block_size)
    else:
        codes, scales = reference.quantize_4bit(x, quant_type=quant_type, block_size=block_size)
    if check_finite:
        check_finite_scales(scales)
    return codes, scales
