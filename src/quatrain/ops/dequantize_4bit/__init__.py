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
    out: Float[Tensor, " numel"] | Float[Tensor, "rows columns"] | None = None,
) -> Float[Tensor, " numel"] | Float[Tensor, "rows columns"]:
    """``codebook[codes] · scales`` [numel], multiplied in float32 and rounded once to ``dtype``.

    ``codes`` is uint8 [⌈numel/2⌉], the even element in the high nibble. ``scales`` [⌈numel/block_size⌉] is float32,
    or, with ``nested``, the uint8 codes of double quantization. ``out``, of ``dtype``, receives the result and is
    returned: contiguous [numel], or a matrix of numel elements whose rows may lie any distance apart, as in a scratch
    that has room for an adapter's columns beside the weight's.

    Raises QuantizationError if sizes and types don't fit together.
    """
    check_quant_type(quant_type)
    check_block_size(block_size)
    check_float("dtype", dtype)
    _check_sizes(codes, scales, numel, block_size, nested)
    if out is not None:
        _check_out(out, numel, dtype)
    if use_triton(codes):
        from . import triton as twin
    else:
        twin = reference
    target = out.view(-1) if out is not None and out.is_contiguous() else out
    result = twin.dequantize_4bit(
        codes, scales, numel=numel, quant_type=quant_type, block_size=block_size, dtype=dtype, nested=nested, out=target
    )
    return result if out is None else out


def _check_out(out: Tensor, numel: int, dtype: torch.dtype) -> None:
    has_rows = out.dim() == 2 and out.stride(1) == 1 and out.stride(0) >= out.shape[1]
    if out.numel() != numel or out.dtype != dtype or not (out.is_contiguous() or has_rows):
        raise QuantizationError(
            f"out must be {numel} elements of {dtype}, contiguous or a matrix of contiguous rows, got "
            f"{list(out.shape)} of {out.dtype} with strides {out.stride()}. Pass a flat view or an untransposed matrix."
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
