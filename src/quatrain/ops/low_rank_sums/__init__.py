"""x·Aᵀ of a few rows: the thin half of an adapter's update, for the product of the other half to finish.

With one row per sequence, A is read for nothing but a handful of numbers, so what counts is that many processors read
it together. They do if each takes a run of columns; the runs' sums aren't added up by another launch but by
:func:`quatrain.ops.linear_4bit.linear_4bit`, which needs them next. For thousands of rows there is
:func:`quatrain.ops.low_rank.low_rank_down`.
"""

from jaxtyping import Float, Float32
from torch import Tensor

from ..dispatch import use_triton
from ..layout import check_rows
from . import reference

__all__ = ["low_rank_sums"]


def low_rank_sums(x_MK: Float[Tensor, "M K"], a_RK: Float[Tensor, "R K"]) -> Float32[Tensor, "S M R"]:
    """float32 [S, M, R] whose sum over S is ``x @ aᵀ``. How many runs S there are depends on K and the device.

    Args:
        x_MK: a few rows, any distance apart.
        a_RK: the adapters' A below one another, of x's dtype, contiguous.
    """
    check_rows(x_MK=x_MK, a_RK=a_RK)
    if use_triton(x_MK):
        from . import triton as twin
    else:
        twin = reference
    return twin.low_rank_sums(x_MK, a_RK)
