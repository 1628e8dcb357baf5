"""The 4-bit product in plain PyTorch: each weight dequantized to float32, multiplied, and dropped."""

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
    x_MK = x_MK.float()
    products = []
    for weight, update in zip(weights, low_rank or [None] * len(weights), strict=True):
        y_MN = x_MK @ dequantized(weight, torch.float32).T
        if update is not None:
            y_MN += update.sums_SMR.sum(0) @ update.b_NR.float().T
        products.append(y_MN)
    y_MN = torch.cat(products, dim=1)
    if bias_N is not None:
        y_MN += bias_N.float()
    out.copy_(y_MN)


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
