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
    torch.addmm(out_RN, p_TR.T, q_TN, out_dtype=torch.float32, out=out_RN)
