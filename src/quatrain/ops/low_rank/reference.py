"""LoRA's thin products in plain PyTorch, in float32 throughout.

With m the mask of an adapter and s the scale of what it keeps, each adapter owns some rows of the stacked A:

    down      h = s · (x ∘ m) aᵀ
    up        dx += s · m ∘ (dh a)
    gradient  out += s · pᵀ (q ∘ m)

The scale stands outside the products, where it costs nothing and rounds nothing.
"""

from collections.abc import Iterator

from torch import Tensor

from .dropout import Dropout, keep_mask

Ranks = tuple[tuple[int, int], ...]


def low_rank_down(x_TK: Tensor, a_RK: Tensor, *, out: Tensor, ranks: Ranks, dropout: Dropout | None = None) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_down`; no argument is checked here."""
    if dropout is None:
        out.copy_(x_TK.float() @ a_RK.float().T)
        return
    out.zero_()
    for rows, mask_TK in _adapters(ranks, dropout, x_TK):
        out[:, rows] = (x_TK * mask_TK).float() @ a_RK[rows].float().T * dropout.scale


def low_rank_up_(dx_TK: Tensor, dh_TR: Tensor, a_RK: Tensor, *, ranks: Ranks, dropout: Dropout | None = None) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_up_`; no argument is checked here."""
    sum_TK = dx_TK.float()
    if dropout is None:
        dx_TK.copy_(sum_TK.addmm(dh_TR.float(), a_RK.float()))
        return
    for rows, mask_TK in _adapters(ranks, dropout, dx_TK):
        sum_TK = sum_TK + dh_TR[:, rows].float() @ a_RK[rows].float() * mask_TK * dropout.scale
    dx_TK.copy_(sum_TK)


def low_rank_gradient(
    p_TR: Tensor, q_TN: Tensor, out_RN: Tensor, *, ranks: Ranks, dropout: Dropout | None = None
) -> None:
    """See :func:`quatrain.ops.low_rank.low_rank_gradient`; no argument is checked here."""
    if dropout is None:
        out_RN.addmm_(p_TR.float().T, q_TN.float())
        return
    for rows, mask_TN in _adapters(ranks, dropout, q_TN):
        out_RN[rows].addmm_(p_TR[:, rows].float().T, (q_TN * mask_TN).float(), alpha=dropout.scale)


def _adapters(ranks: Ranks, dropout: Dropout, masked: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Each adapter's rows of the stacked A, and its mask of ``masked``."""
    for adapter, (first_row, rank) in enumerate(ranks):
        yield slice(first_row, first_row + rank), keep_mask(dropout, adapter, *masked.shape)
