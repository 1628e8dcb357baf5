"""Causal attention over samples that lie end to end in one row, as an explicit pair of forward and backward.

For blocks whose backward is written by hand: what backward needs is handed over (q, k, v, the output and one number per
token and head), gradients are written where the caller wants them, and nothing waits for the device: the lengths of the
samples stay on it, and a number of slots that never changes makes every step the same, so that it can be captured in a
CUDA graph. :func:`quatrain.ops.packed_attention.packed_attention` is the differentiable counterpart for other models.
"""

from jaxtyping import Float
from torch import Tensor

from .backends import available_backends, choose
from .checks import check_backward, check_forward
from .segments import Segments

__all__ = ["Segments", "attention_backward", "attention_forward", "available_backends"]


def attention_forward(
    q_TAD: Float[Tensor, "T A D"],
    k_TGD: Float[Tensor, "T G D"],
    v_TGD: Float[Tensor, "T G D"],
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    out: Float[Tensor, "T A D"] | None = None,
) -> tuple[Float[Tensor, "T A D"], Float[Tensor, "A T"]]:
    """softmax(scale · q kᵀ) v within each sample, causal; the output [T, A, D], and the log-sum-exp of the scores.

    Query head a meets key/value head a // (A / G). q, k and v may be views into one buffer: only their last dimension
    has to be contiguous. The log-sum-exp is float32 [A, T] (natural logarithm, strides as the kernel likes them).

    Args:
        segments: the samples of the row; they cover all T tokens.
        scale: factor on the scores, above 0.
        window: a token sees only this many last tokens, itself included (sliding window). None: all before it.
        softcap: scores become softcap · tanh(scores / softcap) (Gemma 2).
        out: receives the output.

    Raises ValueError if shapes, types or strides don't fit together.
    """
    check_forward(q_TAD, k_TGD, v_TGD, segments, scale, window, softcap, out)
    backend, options = choose(q_TAD, softcap)
    return backend.attention_forward(q_TAD, k_TGD, v_TGD, segments, scale=scale, window=window, out=out, **options)


def attention_backward(
    do_TAD: Float[Tensor, "T A D"],
    q_TAD: Float[Tensor, "T A D"],
    k_TGD: Float[Tensor, "T G D"],
    v_TGD: Float[Tensor, "T G D"],
    o_TAD: Float[Tensor, "T A D"],
    lse_AT: Float[Tensor, "A T"],
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    dq: Float[Tensor, "T A D"],
    dk: Float[Tensor, "T G D"],
    dv: Float[Tensor, "T G D"],
) -> None:
    """Write the gradients of q, k and v, given the output's, into ``dq``, ``dk`` and ``dv``.

    ``o_TAD`` and ``lse_AT`` are what :func:`attention_forward` returned for the same arguments. The gradients may be
    views into one buffer: only their last dimension has to be contiguous.

    Raises ValueError if shapes, types or strides don't fit together.
    """
    check_forward(q_TAD, k_TGD, v_TGD, segments, scale, window, softcap, o_TAD)
    check_backward(q_TAD, k_TGD, do_TAD, lse_AT, dq, dk, dv)
    backend, options = choose(q_TAD, softcap)
    options |= {"scale": scale, "window": window, "dq": dq, "dk": dk, "dv": dv}
    backend.attention_backward(do_TAD, q_TAD, k_TGD, v_TGD, o_TAD, lse_AT, segments, **options)
