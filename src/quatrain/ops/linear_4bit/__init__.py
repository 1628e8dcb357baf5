"""The product of a few rows with a frozen 4-bit weight, without the weight ever being written out.

Decoding multiplies one row per sequence. Dequantizing a weight for that moves five times its bytes (half a byte in, two
out, two in again); here a code is read, turned into a number in a register, multiplied and forgotten. Above some tens
of rows a dense product of the dequantized weight is faster, since its cost is shared by the rows.

A bias and an adapter's low-rank update are added before the one rounding. Weights that read the same input (q, k and v;
gate and up) go into one launch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from quatrain.errors import QuantizationError

from ..checks import check_block_size, check_bytes, check_float, check_quant_type, check_scales
from ..dequantize_4bit import NESTED_BLOCK_SIZE, NestedScales
from ..dispatch import use_triton
from ..layout import check_rows
from . import reference

__all__ = ["MOST_ROWS", "LowRank", "Matrix4bit", "linear_4bit"]

MOST_ROWS = 32
"""Rows of x that the product is meant for."""


class Matrix4bit(NamedTuple):
    """A 4-bit weight [N, K] as plain tensors."""

    codes: UInt8[Tensor, " bytes"]
    """uint8 [⌈N·K/2⌉], row-major, the even element in the high nibble."""
    scales: Float[Tensor, " blocks"] | UInt8[Tensor, " blocks"]
    """[⌈N·K/block_size⌉]: float32, or with ``nested`` the uint8 codes of double quantization."""
    nested: NestedScales | None
    rows: int
    """N."""
    columns: int
    """K."""
    quant_type: str = "nf4"
    block_size: int = 64


class LowRank(NamedTuple):
    """An adapter's update of one weight's output: ``(Σ sums) @ bᵀ``."""

    sums_SMR: Float32[Tensor, "S M R"]
    """What :func:`quatrain.ops.low_rank_sums.low_rank_sums` makes of x, or some of its columns."""
    b_NR: Float[Tensor, "N R"]
    """The adapter's B times its scale, contiguous, of x's dtype."""


def linear_4bit(
    x_MK: Float[Tensor, "M K"],
    weights: Sequence[Matrix4bit],
    *,
    bias_N: Float[Tensor, " N"] | None = None,
    low_rank: Sequence[LowRank | None] | None = None,
    out: Float[Tensor, "M N"] | None = None,
) -> Float[Tensor, "M N"]:
    """``x Wᵀ + bias + low-rank update`` in float32, rounded once to x's dtype.

    Args:
        x_MK: at most :data:`MOST_ROWS` rows, any distance apart.
        weights: one weight, or up to three whose outputs lie side by side; N counts all their rows. All of one
            quant_type and block_size, and either all or none double-quantized.
        bias_N: contiguous.
        low_rank: for each weight its update, or None.
        out: receives the result and is returned; its rows may lie any distance apart.

    Raises QuantizationError if sizes and types don't fit together.
    """
    _check(x_MK, weights)
    check_rows(x_MK=x_MK, out=out)
    rows = sum(weight.rows for weight in weights)
    if out is not None and (out.shape != (len(x_MK), rows) or out.dtype != x_MK.dtype):
        raise QuantizationError(
            f"out must be [{len(x_MK)}, {rows}] of {x_MK.dtype}, got {list(out.shape)} of {out.dtype}. "
            "All weights' outputs lie side by side in it."
        )
    if out is None:
        out = torch.empty(len(x_MK), rows, dtype=x_MK.dtype, device=x_MK.device)
    if use_triton(x_MK):
        from . import triton as twin
    else:
        twin = reference
    twin.linear_4bit(x_MK, weights, bias_N=bias_N, low_rank=low_rank, out=out)
    return out


def _check(x_MK: Tensor, weights: Sequence[Matrix4bit]) -> None:
    check_float("x_MK", x_MK.dtype)
    if not 1 <= len(weights) <= 3:
        raise QuantizationError(f"one to three weights are multiplied in one call, got {len(weights)}. Call it again.")
    if len(x_MK) > MOST_ROWS:
        raise QuantizationError(
            f"x_MK must have at most {MOST_ROWS} rows, got {len(x_MK)}. For more, dequantize the weight and multiply."
        )
    kinds = {(weight.quant_type, weight.block_size, weight.nested is None) for weight in weights}
    if len(kinds) > 1:
        raise QuantizationError(
            f"weights of one call must be quantized alike, got {sorted(kinds)}. Call once for each."
        )
    for weight in weights:
        _check_weight(weight, x_MK.shape[1])


def _check_weight(weight: Matrix4bit, columns: int) -> None:
    check_quant_type(weight.quant_type)
    check_block_size(weight.block_size)
    if weight.columns != columns:
        raise QuantizationError(f"a weight must have as many columns as x_MK, {columns}, got {weight.columns}.")
    numel = weight.rows * weight.columns
    blocks = -(-numel // weight.block_size)
    check_bytes("codes", weight.codes, (numel + 1) // 2)
    if weight.nested is None:
        check_scales("scales", weight.scales, blocks)
    else:
        check_bytes("scales", weight.scales, blocks)
        check_scales("nested scales", weight.nested.scales, -(-blocks // NESTED_BLOCK_SIZE))
        check_scales("offset", weight.nested.offset, 1)
