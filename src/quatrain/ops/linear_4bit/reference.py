"""The 4-bit product in plain PyTorch: each weight is dequantized to x's dtype, multiplied, and dropped.

Products of 16-bit numbers are summed in float32 by every library that multiplies them, so only the weight's rounding is
new, and that is the one that a layer's own forward makes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..dequantize_4bit import dequantize_4bit


def linear_4bit(
    x_MK: Tensor,
    weights: Sequence[Any],
    *,
    bias_N: Tensor | None,
    low_rank: Sequence[Any] | None,
    out: Tensor,
) -> None:
    """See :func:`quatrain.ops.linear_4bit.linear_4bit`; no argument is checked here."""
    first = 0
    for weight, update in zip(weights, low_rank or [None] * len(weights), strict=True):
        rows = slice(first, first := first + weight.rows)
        y_MN = x_MK @ dequantized(weight, x_MK.dtype).T
        if bias_N is not None or update is not None:
            y_MN = y_MN.float()
        if bias_N is not None:
            y_MN += bias_N[rows]
        if update is not None:
            y_MN += update.sums_SMR.sum(0) @ update.b_NR.float().T
        out[:, rows] = y_MN


def dequantized(weight: Any, dtype: torch.dtype) -> Tensor:
    """The weight [N, K] in ``dtype``."""
    return dequantize_4bit(
        weight.codes,
        weight.scales,
        numel=weight.rows * weight.columns,
        quant_type=weight.quant_type,
        block_size=weight.block_size,
        dtype=dtype,
        nested=weight.nested,
    ).view(weight.rows, weight.columns)
