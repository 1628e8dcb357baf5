"""Causal attention over samples that lie end to end in one row, none of which sees another.

A packed micro-batch holds many samples. Attending over the whole row under a block-diagonal mask costs the square of
the row's length; attending sample by sample costs the sum of the squares. On CUDA one variable-length kernel runs them
all; elsewhere the samples are attended one after the other, on a CPU in 16 bits by a kernel of our own.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from quatrain.ops.packed_attention import blockwise, reference, varlen

__all__ = ["packed_attention"]


def packed_attention(
    q_HTD: Float[Tensor, "Hq T D"],
    k_GTD: Float[Tensor, "Hkv T D"],
    v_GTD: Float[Tensor, "Hkv T Dv"],
    lengths: tuple[int, ...],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "Hq T Dv"]:
    """softmax(scale · q kᵀ) v within each sample, causal, with grouped heads when Hkv < Hq.

    Args:
        lengths: tokens of each sample, in order; they add up to T.
        scale: factor on the scores.
        window: a token sees only this many last tokens, itself included (sliding window). None: all before it.
        softcap: scores become softcap · tanh(scores / softcap) (Gemma 2).
        dropout: probability of dropping an attention weight (GPT-2).
    """
    if sum(lengths) != q_HTD.shape[1]:
        raise ValueError(f"sample lengths must add up to the row's {q_HTD.shape[1]} tokens, found {sum(lengths)}")
    if varlen.can_run(q_HTD, v_GTD, softcap, dropout):
        return varlen.packed_attention(q_HTD, k_GTD, v_GTD, lengths, scale=scale, window=window)
    options = {"window": window, "softcap": softcap, "dropout": dropout}
    done = []
    for q, k, v in zip(*(x.split(lengths, dim=1) for x in (q_HTD, k_GTD, v_GTD)), strict=True):
        if blockwise.can_run(q, **options):
            done.append(blockwise.attend(q, k, v, scale))
        else:
            done.append(reference.attend(q, k, v, scale, **options))
    return torch.cat(done, dim=1) if len(done) > 1 else done[0]
