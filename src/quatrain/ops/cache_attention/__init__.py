"""Attention of one new token per sequence over a cache of keys and values: what decoding does between two products.

The operation takes the joint product's output as it is and does all that stands between it and the output projection:
normalize q and k where the model does, rotate them to the token's position, store k and v, and attend to everything
before. As separate steps these are six launches on a few kilobytes each, and launches are what a small step is made of.

Each sequence has its own length, and the lengths stay on the device, so a recorded step works at any of them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ..dispatch import use_triton
from ..layout import check_rows
from . import reference

__all__ = ["HeadNorms", "cache_attention"]


class HeadNorms(NamedTuple):
    """RMSNorm over each query and key head, before the rotation (Qwen 3, Gemma 3)."""

    q_D: Float[Tensor, " D"]
    """Weight for queries."""
    k_D: Float[Tensor, " D"]
    """Weight for keys."""
    eps: float
    """Added to the mean of squares."""
    offset: float = 0.0
    """Added to both weights: 1.0 for Gemma."""


def cache_attention(
    qkv_BW: Float[Tensor, "B W"],
    keys_BCGD: Float[Tensor, "B C G D"],
    values_BCGD: Float[Tensor, "B C G D"],
    lengths_B: Int64[Tensor, " B"],
    cos_PE: Float32[Tensor, "P E"],
    sin_PE: Float32[Tensor, "P E"],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    norms: HeadNorms | None = None,
    out: Float[Tensor, "B N"] | None = None,
) -> Float[Tensor, "B N"]:
    """softmax(scale · q kᵀ) v of each row's new token [B, A·D]; its k and v are stored in the cache.

    Query head a meets key/value head a // (A / G). Arithmetic is float32; the rotated q and k are rounded once to the
    tensors' dtype.

    Args:
        qkv_BW: [B, (A + 2G)·D], the new token's q, k and v, before norm and rotation. Rows may lie any distance apart.
        keys_BCGD: room for C tokens of B sequences, of qkv's dtype. Row b's first ``lengths_B[b]`` tokens are valid;
            the new one is written behind them. Contiguous.
        values_BCGD: likewise.
        lengths_B: tokens in the cache, which is also the new token's position: less than C and P.
        cos_PE: rotary cosines by position. 2E ≤ D; columns from 2E on aren't rotated.
        sin_PE: sines, likewise.
        scale: factor on the scores.
        window: the token sees only this many last tokens, itself included. None: all.
        softcap: scores become softcap · tanh(scores / softcap) (Gemma 2).
        norms: of q and k heads.
        out: receives the result and is returned; its rows may lie any distance apart.

    Raises ValueError if shapes or types don't fit together.
    """
    _check(qkv_BW, keys_BCGD, values_BCGD, cos_PE, window)
    check_rows(qkv_BW=qkv_BW, out=out)
    batch, _, groups, size = keys_BCGD.shape
    if out is None:
        out = torch.empty(batch, qkv_BW.shape[1] - 2 * groups * size, dtype=qkv_BW.dtype, device=qkv_BW.device)
    if use_triton(qkv_BW):
        from . import triton as twin
    else:
        twin = reference
    twin.cache_attention(
        qkv_BW,
        keys_BCGD,
        values_BCGD,
        lengths_B,
        cos_PE,
        sin_PE,
        scale=scale,
        window=window,
        softcap=softcap,
        norms=norms,
        out=out,
    )
    return out


def _check(qkv_BW: Tensor, keys_BCGD: Tensor, values_BCGD: Tensor, cos_PE: Tensor, window: int | None) -> None:
    groups, size = keys_BCGD.shape[2:]
    heads = qkv_BW.shape[1] // size - 2 * groups
    if qkv_BW.shape[1] % size or heads < 1 or heads % groups:
        raise ValueError(
            f"qkv_BW must be [B, (A + 2G)·D] with A a multiple of G = {groups} and D = {size}, "
            f"got {qkv_BW.shape[1]} columns. The cache belongs to another model."
        )
    for name, cache in (("keys_BCGD", keys_BCGD), ("values_BCGD", values_BCGD)):
        if cache.dtype != qkv_BW.dtype or not cache.is_contiguous():
            raise ValueError(f"{name} must be contiguous and of qkv's {qkv_BW.dtype}, got {cache.dtype}. Make it anew.")
    if 2 * cos_PE.shape[1] > size:
        raise ValueError(f"twice the tables' width must not pass the head size {size}, got {cos_PE.shape[1]}.")
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, since a token sees itself, got {window}. None means all tokens.")
