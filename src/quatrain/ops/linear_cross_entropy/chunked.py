"""The head's product and the loss, chunk by chunk of rows. N tokens, C rows of a chunk, H hidden, V vocabulary.

One product makes a chunk's logits, :func:`cross_entropy_` turns them into their gradient where they lie, and one
product takes that back to the hidden states. All of it is matrix products and one operation that has a twin per device,
so this file serves every device.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..cross_entropy import cross_entropy_
from .cutting import columns_of_logits, rows_of_a_chunk


def loss_and_gradient(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    targets_N: Tensor,
    grad_NH: Tensor | None,
    *,
    bias_V: Tensor | None,
    logit_scale: float,
    softcap: float | None,
    gradient_scale: float,
    most_rows: int | None = None,
) -> Tensor:
    """The loss, a float32 scalar; ``gradient_scale`` times its gradient is written to ``grad_NH`` if that is given.

    Chunks have ``most_rows`` rows at most.
    """
    (tokens, hidden), vocabulary = hidden_NH.shape, weight_VH.shape[0]
    rows = rows_of_a_chunk(tokens, hidden, vocabulary, on_gpu=hidden_NH.is_cuda, most=most_rows)
    buffer_CV = hidden_NH.new_empty(rows, columns_of_logits(vocabulary))[:, :vocabulary]
    loss_N = torch.empty(tokens, dtype=torch.float32, device=hidden_NH.device)
    for chunk in _chunks(tokens, rows):
        logits_CV = _logits(hidden_NH[chunk], weight_VH, bias_V, buffer_CV)
        cross_entropy_(
            logits_CV,
            targets_N[chunk],
            loss_N[chunk],
            scale=logit_scale,
            softcap=softcap,
            want_gradient=grad_NH is not None,
        )
        if grad_NH is not None:
            out_CH = grad_NH[chunk]
            torch.addmm(out_CH, logits_CV, weight_VH, beta=0, alpha=gradient_scale, out=out_CH)
    return loss_N.sum()


def _chunks(tokens: int, rows: int) -> Iterator[slice]:
    """Slices of ``rows`` tokens. The last reaches back, doing a few rows twice, instead of being short."""
    for start in range(0, tokens, max(1, rows)):
        first = min(start, tokens - rows)
        yield slice(first, first + rows)


def _logits(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, out_CV: Tensor) -> Tensor:
    if bias_V is None:
        return torch.mm(hidden_CH, weight_VH.T, out=out_CV)
    return torch.addmm(bias_V, hidden_CH, weight_VH.T, out=out_CV)
