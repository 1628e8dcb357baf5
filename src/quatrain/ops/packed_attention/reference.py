"""Attention of one sample in PyTorch: specification, and what runs wherever no other kernel does.

H query heads, G key/value heads, S tokens of the sample, D size of a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(
    q_HSD: Tensor,
    k_GSD: Tensor,
    v_GSD: Tensor,
    scale: float,
    *,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale · q kᵀ) v, causal; see :func:`quatrain.ops.packed_attention.packed_attention` for the options."""
    if softcap is not None:
        return _attend_with_softcap(q_HSD, k_GSD, v_GSD, scale, window, softcap, dropout)
    size = q_HSD.shape[1]
    mask = None if window is None or window >= size else _visible(size, window, q_HSD.device)
    grouped = k_GSD.shape[0] != q_HSD.shape[0]
    q, k, v = (x.unsqueeze(0) for x in (q_HSD, k_GSD, v_GSD))
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, mask is None, scale=scale, enable_gqa=grouped)[0]


def _attend_with_softcap(
    q_HSD: Tensor, k_GSD: Tensor, v_GSD: Tensor, scale: float, window: int | None, softcap: float, dropout: float
) -> Tensor:
    group = q_HSD.shape[0] // k_GSD.shape[0]
    k_HSD, v_HSD = k_GSD.repeat_interleave(group, 0), v_GSD.repeat_interleave(group, 0)
    scores_HSS = softcap * torch.tanh(q_HSD @ k_HSD.transpose(1, 2) * (scale / softcap))
    visible_SS = _visible(q_HSD.shape[1], window, q_HSD.device)
    weights_HSS = scores_HSS.masked_fill(~visible_SS, float("-inf")).softmax(-1, dtype=torch.float32)
    return F.dropout(weights_HSS, dropout).to(v_HSD.dtype) @ v_HSD


def _visible(size: int, window: int | None, device: torch.device) -> Tensor:
    """[S, S] bool: may the row's token look at the column's?"""
    causal = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    return causal if window is None else causal.triu(1 - window)
