"""Output head and cross-entropy in one operation, in chunks, so that the whole logits never exist.

With a vocabulary V of 128k, the logits of 8,192 tokens take 4 GiB in float32, and as much again for their gradient. The
head is frozen, so nothing of them is needed later: each chunk of rows yields its loss and, at once, the gradient of its
hidden states, which is all that backward returns.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..layout import check_rows
from .autograd import LinearCrossEntropy
from .chunked import loss_and_gradient

__all__ = ["linear_cross_entropy", "linear_cross_entropy_with_gradient"]


def linear_cross_entropy(
    hidden_NH: Float[Tensor, "N H"],
    weight_VH: Float[Tensor, "V H"],
    targets_N: Int[Tensor, " N"],
    *,
    bias_V: Float[Tensor, " V"] | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Float[Tensor, ""]:
    """Sum over N tokens of −log softmax(f(hidden · weightᵀ + bias))[target], in float32.

    Args:
        hidden_NH: final hidden states of the supervised tokens, in the compute dtype. The only differentiable input.
        weight_VH: frozen output head, same dtype.
        targets_N: the token to predict from each row, in [0, V); −100 for none.
        bias_V: the head's bias, if it has one, same dtype.
        logit_scale: factor on the logits (Cohere, Granite).
        softcap: logits become softcap · tanh(logits / softcap) after scaling (Gemma 2).
    """
    return LinearCrossEntropy.apply(hidden_NH, weight_VH, targets_N.long(), bias_V, logit_scale, softcap)  # pyright: ignore


def linear_cross_entropy_with_gradient(
    hidden_NH: Float[Tensor, "N H"],
    weight_VH: Float[Tensor, "V H"],
    targets_N: Int[Tensor, " N"],
    *,
    bias_V: Float[Tensor, " V"] | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    grad_out: Float[Tensor, "N H"] | None = None,
    gradient_scale: float = 1.0,
    most_rows: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "N H"]]:
    """:func:`linear_cross_entropy` without autograd, for an engine that calls backward by hand.

    The other arguments are that function's. Rows whose target is −100 have loss 0 and gradient 0, so a number of rows
    that is the same at every step, as a CUDA graph wants it, may hold any number of supervised tokens.

    Args:
        grad_out: receives the gradient and is returned; its rows may lie any distance apart. May not be ``hidden_NH``.
        gradient_scale: factor on the gradient, not on the loss: one over the step's supervised tokens, say.
        most_rows: rows whose logits may exist at once; without it, as many as fill the device.

    Returns:
        The loss, a float32 scalar, and the gradient of ``hidden`` [N, H], in its dtype.
    """
    check_rows(hidden_NH=hidden_NH, weight_VH=weight_VH, grad_out=grad_out)
    grad_NH = torch.empty_like(hidden_NH) if grad_out is None else grad_out
    loss = loss_and_gradient(
        hidden_NH,
        weight_VH,
        targets_N.long(),
        grad_NH,
        bias_V=bias_V,
        logit_scale=logit_scale,
        softcap=softcap,
        gradient_scale=gradient_scale,
        most_rows=most_rows,
    )
    return loss, grad_NH
