"""The tail in plain PyTorch: a few copies."""

from typing import Any

import torch
from torch import Tensor


def adapter_tail(out_NR: Tensor, parts: tuple[Any, ...], *, bias_N: Tensor | None, bias_column: int) -> None:
    """See :func:`quatrain.ops.adapter_tail.adapter_tail`; no argument is checked here."""
    out_NR.zero_()
    for b_NR, row, column, scale in parts:
        place = out_NR[row : row + b_NR.shape[0], column : column + b_NR.shape[1]]
        place.copy_(torch.mul(b_NR, scale))
    if bias_N is not None:
        out_NR[:, bias_column] = bias_N
