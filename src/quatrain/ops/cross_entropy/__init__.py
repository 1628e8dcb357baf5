"""Cross-entropy that turns logits into their own gradient.

Logits are the largest tensor of a training step and nobody needs them twice: a pass over a row yields its loss, a
second one, while the row is still in the cache, writes the gradient over it.
"""

from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ..dispatch import use_triton
from ..layout import check_rows
from . import reference
from .reference import IGNORED

__all__ = ["IGNORED", "cross_entropy_"]


def cross_entropy_(
    logits_CV: Float[Tensor, "C V"],
    targets_C: Int64[Tensor, " C"],
    loss_C: Float32[Tensor, " C"],
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    want_gradient: bool = True,
) -> None:
    """Write each row's −log softmax(z)[target] to ``loss_C``, and its gradient over the logits. In place.

    z is ``scale · logits``, then with ``softcap`` c, ``c · tanh(z / c)``. The gradient is of the logits themselves:
    softmax − one-hot, times the derivative of scale and soft cap. All in float32, rounded once to the logits' dtype.

    Args:
        logits_CV: C rows over V tokens of the vocabulary; rows may lie any distance apart.
        targets_C: the token to predict from each row, in [0, V). −100 (:data:`IGNORED`) gives loss 0 and gradient 0.
        loss_C: receives the losses; contiguous.
        scale: factor on the logits, above 0 (Cohere, Granite).
        softcap: see above; above 0 (Gemma 2).
        want_gradient: False leaves the logits as they are.
    """
    for name, value in (("scale", scale), ("softcap", softcap)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}. Fold a sign into the head's weight.")
    check_rows(logits_CV=logits_CV, targets_C=targets_C, loss_C=loss_C)
    if use_triton(logits_CV):
        from . import triton as twin
    else:
        twin = reference
    twin.cross_entropy_(logits_CV, targets_C, loss_C, scale=scale, softcap=softcap, want_gradient=want_gradient)
