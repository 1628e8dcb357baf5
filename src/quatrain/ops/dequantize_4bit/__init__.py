"""Turn 4-bit codes back into numbers, undoing double quantization on the way."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from quatrain.errors import QuantizationError

from ..checks import check_block_size, check_bytes, check_float, check_quant_type, check_scales
from ..dispatch import use_triton
from . import reference
from .reference import NESTED_BLOCK_SIZE

__all__ = ["NESTED_BLOCK_SIZE", "NestedScales", "dequantize_4bit"]


class NestedScales(NamedTuple):
    """What turns 8-bit scales back into float32: ``map[code] · scales[block // 256] + offset``."""

    scales: Float[Tensor, " nested_blocks"]
    """float32 [⌈blocks/256⌉], the largest magnitude of each 256 scales less the offset."""
    offset: Float[Tensor, ""]
    """float32 scalar, the mean of all scales of the tensor."""


def dequantize_4bit(
    codes: UInt8[Tensor, " bytes"],
    scales: Float[Tensor, " blocks"] | UInt8[Tensor, " blocks"],
    *,
    numel: int,
    quant_type: str = "nf4",
    block_size: int = 64,
    dtype: torch.dtype = torch.float32,
    nested: NestedScales | None = None,
    out: Float[Tensor, " numel"] | None = None,
) -> Float[Tensor, " numel"]:
    """``codebook[codes] · scales`` [numel], multiplied in float32 and rounded once to ``dtype``.

    ``codes`` is uint8 [⌈numel/2⌉], the even element in the high nibble. ``scales`` [⌈numel/block_size⌉] is float32,
    or, with ``nested``, the uint8 codes of double quantization. ``out``, contiguous [numel] of ``dtype``, receives
    the result and is returned.

    Raises QuantizationError if sizes and types don't fit together.
    """
    check_quant_type(quant_type)
    check_block_size(block_size)
    check_float("dtype", dtype)
    _check_sizes(codes, scales, numel, block_size, nested)
    if out is not None and (out.shape != (numel,) or out.dtype != dtype or not out.is_contiguous()):
        raise QuantizationError(
            f"out must be contiguous [{numel}] of {dtype}, got {list(out.shape)} of {out.dtype}. Pass a flat view."
        )
    if use_triton(codes):
        from . import triton as twin
    else:
        twin = reference
    return twin.dequantize_4bit(
        codes, scales, numel=numel, quant_type=quant_type, block_size=block_size, dtype=dtype, nested=nested, out=out
    )


def _check_sizes(codes: Tensor, scales: Tensor, numel: int, block_size: int, nested: NestedScales | None) -> None:
    blocks = -(-numel // block_size)
    check_bytes("codes", codes, (numel + 1) // 2)
    if nested is None:
        check_scales("scales", scales, blocks)
        return
    check_bytes("scales", scales, blocks)
    check_scales("nested scales", nested.scales, -(-blocks // NESTED_BLOCK_SIZE))
    check_scales("offset", nested.offset, 1)
