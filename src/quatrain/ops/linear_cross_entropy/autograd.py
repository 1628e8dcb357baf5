"""Linear cross-entropy as a node of autograd's graph, for models whose blocks aren't ours."""

import torch
from torch import Tensor

from .chunked import loss_and_gradient


class LinearCrossEntropy(torch.autograd.Function):
    """Forward makes the loss and the gradient of ``hidden``; backward only scales it."""

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, targets_N, bias_V, logit_scale, softcap) -> Tensor:
        grad_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        loss = loss_and_gradient(
            hidden_NH,
            weight_VH,
            targets_N,
            grad_NH,
            bias_V=bias_V,
            logit_scale=logit_scale,
            softcap=softcap,
            gradient_scale=1.0,
        )
        if grad_NH is not None:
            ctx.save_for_backward(grad_NH)
        return loss

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (grad_NH,) = ctx.saved_tensors
        return grad_NH * grads[0].to(grad_NH.dtype), None, None, None, None, None
