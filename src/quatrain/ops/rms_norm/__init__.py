"""Root-mean-square normalization of rows, with the residual's sum before it and its gradient after it.

Forward and backward are two plain functions, since a block calls them by hand. The weight is frozen, so it has no
gradient. What forward keeps is one number a row; the output is recomputed from it where it is needed again.
"""

from jaxtyping import Float
from torch import Tensor

from ..dispatch import use_triton
from ..layout import check_rows
from . import reference

__all__ = ["rms_norm", "rms_norm_backward"]


def rms_norm(
    x_TH: Float[Tensor, "*T H"],
    weight_H: Float[Tensor, " H"],
    *,
    eps: float,
    offset: float = 0.0,
    residual_TH: Float[Tensor, "*T H"] | None = None,
    sum_out: Float[Tensor, "*T H"] | None = None,
    out: Float[Tensor, "*T H"] | None = None,
) -> tuple[Float[Tensor, "*T H"], Float[Tensor, "*T"]]:
    """``y = x · rstd · (weight + offset)`` and ``rstd = 1/√(mean(x²) + eps)``, in float32, rounded once to x's dtype.

    Args:
        x_TH: rows to normalize, [T, H], or heads to normalize, [T, A, H]. Rows and tokens may lie any distance apart.
        weight_H: factor of each column.
        eps: added to the mean of squares.
        offset: added to the weight: 1.0 for Gemma, whose checkpoints store the weight less one.
        residual_TH: what is normalized is ``x + residual``, rounded to x's dtype.
        sum_out: receives that sum, and is required with ``residual_TH``. May be ``x_TH`` or ``residual_TH`` itself.
        out: receives y. May be ``x_TH`` itself.

    Returns:
        y [T, H] and rstd [T] in float32, which :func:`rms_norm_backward` asks for.
    """
    if (residual_TH is None) != (sum_out is None):
        raise ValueError("residual_TH and sum_out must be given together, got one of them. Pass both or neither.")
    _check_dimensions(x_TH)
    check_rows(x_TH=x_TH, weight_H=weight_H, residual_TH=residual_TH, sum_out=sum_out, out=out)
    if use_triton(x_TH):
        from . import triton as twin
    else:
        twin = reference
    return twin.rms_norm(x_TH, weight_H, eps=eps, offset=offset, residual_TH=residual_TH, sum_out=sum_out, out=out)


def rms_norm_backward(
    dy_TH: Float[Tensor, "*T H"],
    x_TH: Float[Tensor, "*T H"],
    weight_H: Float[Tensor, " H"],
    rstd_T: Float[Tensor, "*T"],
    *,
    offset: float = 0.0,
    add_TH: Float[Tensor, "*T H"] | None = None,
    out: Float[Tensor, "*T H"] | None = None,
) -> Float[Tensor, "*T H"]:
    """The gradient of the rows that were normalized, in float32, rounded once to dy's dtype.

    Args:
        dy_TH: gradient of the output, [T, H] or [T, A, H], as in forward.
        x_TH: what was normalized (with a residual, the sum).
        weight_H: as in forward.
        rstd_T: what forward returned, contiguous.
        offset: as in forward.
        add_TH: added to the result: the gradient that reaches the rows around the norm.
        out: receives the result and is returned. May be ``add_TH`` or ``dy_TH`` itself.
    """
    _check_dimensions(x_TH)
    check_rows(dy_TH=dy_TH, x_TH=x_TH, weight_H=weight_H, add_TH=add_TH, out=out)
    if use_triton(x_TH):
        from . import triton as twin
    else:
        twin = reference
    return twin.rms_norm_backward(dy_TH, x_TH, weight_H, rstd_T, offset=offset, add_TH=add_TH, out=out)


def _check_dimensions(x_TH: Tensor) -> None:
    if x_TH.dim() not in (2, 3):
        raise ValueError(f"x_TH must be [T, H] or [T, A, H], got {tuple(x_TH.shape)}. Flatten its leading dimensions.")
