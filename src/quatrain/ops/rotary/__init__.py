"""Rotary position embedding, in place on the queries and keys of a joint product.

Queries and keys lie side by side in one buffer and turn by the same angles, so one call on a view of both does it.
Positions index a table that is made once: recomputing angles costs more than reading them, and positions that restart
with each packed sample are just indices.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
"""

from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ..dispatch import use_triton
from ..layout import check_rows
from . import reference

__all__ = ["rotary_"]


def rotary_(
    x_TAD: Float[Tensor, "T A D"],
    positions_T: Int64[Tensor, " T"],
    cos_PE: Float32[Tensor, "P E"],
    sin_PE: Float32[Tensor, "P E"],
    *,
    inverse: bool = False,
) -> None:
    """Turn the pair (x[e], x[e + E]) of each head by its position's angle, in float32, rounded once. In place.

    ``(a, b)`` becomes ``(a·cos − b·sin, b·cos + a·sin)``: halves against each other, as in Hugging Face's models, not
    neighbours as in the paper.

    Args:
        x_TAD: T tokens of A heads of size D, any strides between tokens and heads. Columns from 2E on are left alone.
        positions_T: row of the tables for each token, contiguous, in [0, P).
        cos_PE: cosines, contiguous, with whatever factor the model's scaling puts on them. 2E ≤ D.
        sin_PE: sines, likewise.
        inverse: negate the sines. That is the transposed map, hence the gradient, and undoes a call without factor.
    """
    check_rows(x_TAD=x_TAD)
    if 2 * cos_PE.shape[1] > x_TAD.shape[2]:
        raise ValueError(
            f"twice the tables' width must not pass the head size {x_TAD.shape[2]}, got tables of {cos_PE.shape[1]}. "
            "Make tables of half the rotated width."
        )
    if use_triton(x_TAD):
        from . import triton as twin
    else:
        twin = reference
    twin.rotary_(x_TAD, positions_T, cos_PE, sin_PE, inverse=inverse)
