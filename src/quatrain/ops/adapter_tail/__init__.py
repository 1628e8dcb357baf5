"""The columns that carry adapters and biases through a joint product: a block-diagonal matrix, written in one launch.

Linears below one another in one matrix [W | tail] need, in the tail's columns, s·B of each linear's adapter in that
linear's rows, zeros beside it, and the biases in a column of their own. The tail is written from the float32 masters
each time the scratch is filled, so no copy of it is kept.
"""

from typing import NamedTuple

from jaxtyping import Float, Float32
from torch import Tensor

from ..dispatch import use_triton
from ..layout import check_rows
from . import reference

__all__ = ["MOST_PARTS", "TailPart", "adapter_tail"]

MOST_PARTS = 3
"""Adapters of one product: q, k and v."""


class TailPart(NamedTuple):
    """The adapter of one linear."""

    b_NR: Float32[Tensor, "rows rank"]
    """Its B, contiguous."""
    first_row: int
    """Where the linear's outputs begin among the product's."""
    first_column: int
    """Where the adapter's columns begin in the tail."""
    scale: float
    """s: what B is multiplied by."""


def adapter_tail(
    out_NR: Float[Tensor, "N R"], parts: tuple[TailPart, ...], *, bias_N: Float[Tensor, " N"] | None, bias_column: int
) -> None:
    """Write the whole tail: ``scale · B`` of each part at its place, the bias in its column, zeros elsewhere.

    Args:
        out_NR: any float dtype; rows may lie any distance apart.
        parts: at most `MOST_PARTS`, whose rows and columns don't overlap.
        bias_N: of all rows, contiguous; None: no column.
        bias_column: where it goes.

    Raises ValueError if a part doesn't fit into the tail.
    """
    check_rows(out_NR=out_NR)
    rows, columns = out_NR.shape
    for part in parts:
        n, r = part.b_NR.shape
        if part.first_row + n > rows or part.first_column + r > columns or len(parts) > MOST_PARTS:
            raise ValueError(
                f"at most {MOST_PARTS} adapters must lie within a tail of {rows} rows and {columns} columns, got {n} × "
                f"{r} at ({part.first_row}, {part.first_column}). Make the tail as wide as all ranks together."
            )
    if use_triton(out_NR):
        from . import triton as twin
    else:
        twin = reference
    twin.adapter_tail(out_NR, parts, bias_N=bias_N, bias_column=bias_column)
