"""Attention of packed samples by PyTorch's own FlashAttention kernel (CUDA, 16 bits, head sizes in eights up to 256).

The kernel behind ``torch.nn.attention.varlen``, called without autograd. It is FlashAttention-2; whoever has installed
FlashAttention-3 or -4 and told PyTorch so (``torch.nn.attention.activate_flash_attention_impl``) gets those instead,
because they take the same operators over. It returns new gradients, so they are copied into the caller's views, and its
backward expands keys and values to all query heads: memory for 2 T A D elements more than other backends need.
"""

import torch
from torch import Tensor

from .segments import Segments

_aten = torch.ops.aten
_CAN_WRITE_IN_PLACE = hasattr(_aten, "_flash_attention_forward_no_dropout_inplace")
"""PyTorch 2.12 and later."""


def can_run(q_TAD: Tensor, softcap: float | None) -> bool:
    in_16_bits = q_TAD.dtype in (torch.bfloat16, torch.float16)
    size = q_TAD.shape[-1]
    return q_TAD.is_cuda and in_16_bits and softcap is None and size % 8 == 0 and size <= 256


def attention_forward(
    q_TAD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.block_attention.attention_forward`; no argument is checked here."""
    lengths = (segments.ends, segments.ends, segments.max_length, segments.max_length)
    options = {"scale": scale, **_window(window)}
    if out is not None and _CAN_WRITE_IN_PLACE:
        forward = _aten._flash_attention_forward_no_dropout_inplace
        return out, forward(out, q_TAD, k_TGD, v_TGD, *lengths, 0.0, True, False, **options)
    o_TAD, lse_AT, *_ = _aten._flash_attention_forward(q_TAD, k_TGD, v_TGD, *lengths, 0.0, True, False, **options)
    return (o_TAD if out is None else out.copy_(o_TAD)), lse_AT


def attention_backward(
    do_TAD: Tensor,
    q_TAD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    o_TAD: Tensor,
    lse_AT: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """See :func:`quatrain.ops.block_attention.attention_backward`; no argument is checked here."""
    lengths = (segments.ends, segments.ends, segments.max_length, segments.max_length)
    # The state of the random numbers that dropout would have drawn; without dropout nobody reads it.
    no_state = (q_TAD.new_empty(2, dtype=torch.uint64), q_TAD.new_empty(0, dtype=torch.uint64))
    tensors = (do_TAD, q_TAD, k_TGD, v_TGD, o_TAD, lse_AT.contiguous())
    options = {"scale": scale, **_window(window)}
    grads = _aten._flash_attention_backward(*tensors, *lengths, 0.0, True, *no_state, **options)
    for target, grad in zip((dq, dk, dv), grads, strict=True):
        target.copy_(grad)


def _window(window: int | None) -> dict[str, int]:
    """The kernel counts the tokens to the left of the current one; ours counts the current one too."""
    return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
