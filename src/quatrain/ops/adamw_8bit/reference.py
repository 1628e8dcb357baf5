"""AdamW with 8-bit state in plain PyTorch: expand the state of a few parameters, take a 32-bit step, compress it again.

The parameters are taken in pieces whose float32 moments fit the processor's caches; a whole step would otherwise stream
several times the state's 32-bit size through memory. Blocks never span parameters, so pieces don't change any number.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..adamw_32bit.reference import adamw_32bit
from ..adamw_32bit.rows import rows_of
from ..codebooks import dynamic_map
from .rounding import ordinals, rounding_table

# 1,024 rows are 1 MiB per float32 moment: small enough for the caches, large enough that starting an operation on two
# or more threads costs little beside it.
ROWS_PER_PIECE = 1024


def adamw_8bit(
    params: list[Tensor],
    grads: list[Tensor],
    codes1: Tensor,
    scales1: Tensor,
    codes2: Tensor,
    scales2: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """See :func:`quatrain.ops.adamw_8bit.adamw_8bit`; no argument is checked here."""
    for which, rows in _pieces(params):
        moment1 = _expand(codes1[rows], scales1[rows], signed=True)
        moment2 = _expand(codes2[rows], scales2[rows], signed=False)
        adamw_32bit(
            params[which],
            grads[which],
            moment1,
            moment2,
            step=step,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
        )
        _compress(moment1, codes1[rows], scales1[rows], signed=True)
        _compress(moment2, codes2[rows], scales2[rows], signed=False)


def _pieces(params: list[Tensor]) -> Iterator[tuple[slice, slice]]:
    """Runs of whole parameters and the rows of state that they own, each about ROWS_PER_PIECE rows."""
    first_param = first_row = row = 0
    for i, param in enumerate(params, start=1):
        row += rows_of(param)
        if row - first_row >= ROWS_PER_PIECE or i == len(params):
            yield slice(first_param, i), slice(first_row, row)
            first_param, first_row = i, row


def _expand(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """float32 [rows, 256] of ``codes`` and their scales."""
    values = dynamic_map(signed, codes.device).index_select(0, codes.view(-1).long())
    return values.view_as(codes).mul_(scales.unsqueeze(1))


def _compress(moment: Tensor, codes: Tensor, scales: Tensor, *, signed: bool) -> None:
    """Write the codes and scales of ``moment`` [rows, 256], which is used up."""
    torch.amax(moment.abs() if signed else moment, dim=1, out=scales)
    # A block of zeros, whose scale is zero, keeps zeros instead of becoming 0 · inf.
    reciprocal = scales.clamp(min=torch.finfo(torch.float32).smallest_normal).reciprocal_()
    quotients = moment.mul_(reciprocal.unsqueeze(1))
    ordinal = (ordinals(quotients) if signed else quotients.view(torch.int32)).view(-1)
    cell = ((ordinal >> 16).bitwise_and_(0xFFFF)).long()
    entry = rounding_table(signed, codes.device).index_select(0, cell)
    codes.view(-1).copy_(entry.add_(ordinal).bitwise_right_shift_(16))
