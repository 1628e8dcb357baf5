"""Packed attention through PyTorch's variable-length FlashAttention kernel (CUDA, 16-bit)."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

# torch 2.11 groups heads without being asked; later versions want it said.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


def can_run(q_HTD: Tensor, v_HTD: Tensor, softcap: float | None, dropout: float) -> bool:
    """Whether the kernel covers this case: CUDA, 16-bit, heads of one size up to 256, no soft-capping, no dropout."""
    same_head = q_HTD.shape[-1] == v_HTD.shape[-1] <= 256
    plain = softcap is None and not dropout
    return q_HTD.is_cuda and q_HTD.dtype in (torch.bfloat16, torch.float16) and same_head and plain


def packed_attention(
    q_HTD: Tensor, k_GTD: Tensor, v_GTD: Tensor, lengths: tuple[int, ...], *, scale: float, window: int | None
) -> Tensor:
    ends = torch.tensor((0, *lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32)
    ends = ends.pin_memory().to(q_HTD.device, non_blocking=True)
    q_THD, k_TGD, v_TGD = (x.transpose(0, 1) for x in (q_HTD, k_GTD, v_GTD))
    longest = max(lengths)
    # The kernel counts the tokens to the left of the current one; ours counts the current one too.
    left = -1 if window is None else window - 1
    out = varlen_attn(q_THD, k_TGD, v_TGD, ends, ends, longest, longest, scale=scale, window_size=(left, 0), **_GROUPED)
    return out.transpose(0, 1)  # pyright: ignore[reportAttributeAccessIssue]
