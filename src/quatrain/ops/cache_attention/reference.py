"""Attention of one new token per sequence over a cache, in plain PyTorch.

B sequences, C tokens that the cache has room for, A query heads, G key/value heads, R = A/G, D head size, E half of the
rotated width.
"""

from typing import Any

import torch
from torch import Tensor

from ..rms_norm.reference import rms_norm
from ..rotary.reference import rotary_


def cache_attention(
    qkv_BW: Tensor,
    keys_BCGD: Tensor,
    values_BCGD: Tensor,
    lengths_B: Tensor,
    cos_PE: Tensor,
    sin_PE: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    norms: Any,
    out: Tensor,
) -> None:
    """See :func:`quatrain.ops.cache_attention.cache_attention`; no argument is checked here."""
    batch, capacity, groups, size = keys_BCGD.shape
    heads_BND = qkv_BW.float().view(batch, -1, size)
    q_BAD, k_BGD, v_BGD = heads_BND.split([heads_BND.shape[1] - 2 * groups, groups, groups], dim=1)
    if norms is not None:
        q_BAD, _ = rms_norm(q_BAD, norms.q_D, eps=norms.eps, offset=norms.offset)
        k_BGD, _ = rms_norm(k_BGD, norms.k_D, eps=norms.eps, offset=norms.offset)
    turned_BND = torch.cat((q_BAD, k_BGD), dim=1)
    rotary_(turned_BND, lengths_B, cos_PE, sin_PE)
    q_BAD, k_BGD = turned_BND.to(qkv_BW.dtype).split([q_BAD.shape[1], groups], dim=1)

    rows = torch.arange(batch, device=qkv_BW.device)
    keys_BCGD[rows, lengths_B] = k_BGD
    values_BCGD[rows, lengths_B] = v_BGD.to(values_BCGD.dtype)

    # On a CPU the lengths are at hand, and what lies behind them needs no work.
    used = capacity if qkv_BW.is_cuda else int(lengths_B.max()) + 1
    keys_BGCD, values_BGCD = (cache[:, :used].float().transpose(1, 2) for cache in (keys_BCGD, values_BCGD))
    scores_BGRC = (q_BAD.float().view(batch, groups, -1, size) @ keys_BGCD.mT) * scale
    if softcap is not None:
        scores_BGRC = softcap * torch.tanh(scores_BGRC / softcap)
    place_C, last_B1 = torch.arange(used, device=qkv_BW.device), lengths_B[:, None]
    hidden_BC = place_C > last_B1
    if window is not None:
        hidden_BC = hidden_BC | (place_C <= last_B1 - window)
    hidden_B11C = hidden_BC[:, None, None]
    weights_BGRC = scores_BGRC.masked_fill(hidden_B11C, float("-inf")).softmax(-1)
    # Room that was never written may hold anything, and zero times infinity isn't zero.
    values_BGCD = values_BGCD.masked_fill(hidden_BC[:, None, :, None], 0.0)
    out.copy_((weights_BGRC @ values_BGCD).view(batch, -1))
