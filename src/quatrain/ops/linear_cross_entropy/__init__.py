"""Output head and cross-entropy in one operation, in chunks, so that the whole logits never exist.

With a vocabulary V of 128k, the logits of 8,192 tokens take 4 GiB in float32, and as much again for their gradient. The
head is frozen, so nothing of them is needed later: each chunk of rows yields its loss and, at once, the gradient of its
hidden states, which is all that backward returns.
"""

from jaxtyping import Float, Int
from torch import Tensor

from quatrain.ops.linear_cross_entropy.reference import LinearCrossEntropy

__all__ = ["linear_cross_entropy"]


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
        targets_N: the token to predict from each row, in [0, V).
        bias_V: the head's bias, if it has one.
        logit_scale: factor on the logits (Cohere, Granite).
        softcap: logits become softcap · tanh(logits / softcap) after scaling (Gemma 2).
    """
    return LinearCrossEntropy.apply(hidden_NH, weight_VH, targets_N, bias_V, logit_scale, softcap)  # pyright: ignore
