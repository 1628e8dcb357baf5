"""Chunked linear cross-entropy in PyTorch, on any device. N tokens, H hidden, V vocabulary."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Logits of one chunk, in elements: 16 MiB of float32 stays near the cache of a CPU and is nothing on a GPU, where more
# rows are needed to fill the card.
_CPU_CHUNK, _GPU_CHUNK = 1 << 22, 1 << 27


class LinearCrossEntropy(torch.autograd.Function):
    """Forward makes the loss and the gradient of `hidden`; backward only scales it."""

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, targets_N, bias_V, logit_scale, softcap) -> Tensor:
        needs_grad = ctx.needs_input_grad[0]
        grad_NH = torch.empty_like(hidden_NH) if needs_grad else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        budget = _GPU_CHUNK if hidden_NH.is_cuda else _CPU_CHUNK
        rows = max(1, budget // weight_VH.shape[0])
        for chunk, seen in _chunks(hidden_NH.shape[0], rows):
            logits_CV = _logits(hidden_NH[chunk], weight_VH, bias_V, logit_scale, softcap)
            loss_C, grad_CV = _loss_and_gradient(logits_CV, targets_N[chunk], needs_grad)
            loss += loss_C[seen:].sum()
            if grad_NH is not None:
                if softcap is not None:
                    grad_CV *= 1 - (logits_CV / softcap) ** 2
                grad_NH[chunk] = (grad_CV.to(weight_VH.dtype) @ weight_VH) * logit_scale
        if grad_NH is not None:
            ctx.save_for_backward(grad_NH)
        return loss

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (grad_NH,) = ctx.saved_tensors
        return grad_NH * grads[0].to(grad_NH.dtype), None, None, None, None, None


def _chunks(tokens: int, rows: int) -> Iterator[tuple[slice, int]]:
    """Slices of `rows` tokens, and how many at the beginning of each were in the one before.

    The last slice reaches back instead of being short: libraries prepare (and keep) code for every new shape, and the
    number of supervised tokens is a new one at each step.
    """
    for start in range(0, tokens, rows):
        first = max(0, min(start, tokens - rows))
        yield slice(first, min(first + rows, tokens)), start - first


def _logits(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    logits_CV = (hidden_CH @ weight_VH.T).float()
    if bias_V is not None:
        logits_CV += bias_V
    if scale != 1.0:
        logits_CV *= scale
    if softcap is not None:
        logits_CV.div_(softcap).tanh_().mul_(softcap)
    return logits_CV


def _loss_and_gradient(logits_CV: Tensor, targets_C: Tensor, needs_grad: bool) -> tuple[Tensor, Tensor]:
    """Loss of each row, and softmax − one-hot (the logits themselves when no gradient is needed)."""
    column = targets_C.long().unsqueeze(1)
    log_p_CV = logits_CV.log_softmax(dim=1)
    loss = -log_p_CV.gather(1, column).squeeze(1)
    if not needs_grad:
        return loss, logits_CV
    grad_CV = log_p_CV.exp_()
    grad_CV.scatter_add_(1, column, grad_CV.new_full(column.shape, -1.0))
    return loss, grad_CV
