"""LoRA's thin products without dropout, by the GPU vendor's library: it comes within a tenth of what memory allows.

PyTorch hands rows that lie apart, in operands and results, to cuBLAS as they are.
"""

import torch
from torch import Tensor


def low_rank_down(x_TK: Tensor, a_RK: Tensor, *, out: Tensor) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_down`; no argument is checked here."""
    torch.mm(x_TK, a_RK.T, out=out)


def low_rank_up_(dx_TK: Tensor, dh_TR: Tensor, a_RK: Tensor) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_up_`; no argument is checked here."""
    dx_TK.addmm_(dh_TR, a_RK)


def low_rank_gradient(p_TR: Tensor, q_TN: Tensor, out_RN: Tensor) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_gradient`; no argument is checked here."""
    rows, columns = out_RN.shape
    # Between these ranks cuBLAS picks a slow kernel for very wide results; two halves take 128 µs instead of 180 on an
    # H200 (8,192 tokens, 28,672 columns, rank 128).
    pieces = 2 if 64 < rows <= 128 and columns > 16384 else 1
    for q, out in zip(q_TN.chunk(pieces, dim=1), out_RN.chunk(pieces, dim=1), strict=True):
        torch.addmm(out, p_TR.T, q, out_dtype=torch.float32, out=out)
