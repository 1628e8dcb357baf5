"""Rounding to the nearest of 256 codes with one table look-up, exactly.

The obvious ways to find the nearest value of a codebook are a search among the 255 midpoints (eight dependent,
unpredictable steps, ten times slower on a CPU) or a coarse grid (fast, wrong near the midpoints). Here a float32 is cut
in two. Its upper 16 bits (sign, exponent, 7 bits of fraction) name a cell, and the dynamic map is coarse enough that no
cell holds more than one threshold. So one table entry per cell can hold both the code at the start of the cell and
where in the cell the next code begins, packed such that a single addition compares and carries:

    ordinal = cell·2¹⁶ + low          low: the lower 16 bits
    entry   = (code - cell)·2¹⁶ + (2¹⁶ - threshold)
    (entry + ordinal) >> 16  =  code      if low < threshold
                                code + 1  otherwise

Negative floats descend as their bits ascend, hence :func:`ordinals`. Every bit pattern, NaN included, has an entry, so
a broken gradient can't read outside the table.
"""

from functools import cache

import torch
from torch import Tensor

from ..codebooks import dynamic_map


def ordinals(x: Tensor) -> Tensor:
    """The bits of float32 ``x`` as int32 numbers that ascend with the values; -0 comes just before +0."""
    bits = x.view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@cache
def thresholds(signed: bool) -> Tensor:
    """The smallest float32 value [255] that takes a code above 0, above 1, … above 254.

    They lie just above the midpoints, since a tie takes the lower code. One differs: without a sign (the second moment)
    every positive value gets a code above zero, as a value that rounded to zero would leave its next update divided by
    ``eps`` alone, thousands of times too large.
    """
    values = dynamic_map(signed, torch.device("cpu"))
    exact = (values[:-1].double() + values[1:].double()) / 2
    if not signed:
        exact[0] = 0.0
    rounded = exact.float()
    next_up = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() > exact, rounded, next_up)


@cache
def rounding_table(signed: bool, device: torch.device) -> Tensor:
    """The entries [65536] (int32), indexed by the upper 16 bits of the ordinal read as an unsigned number. Shared."""
    edges = ordinals(thresholds(signed)).long()
    index = torch.arange(1 << 16, device="cpu")
    cell = torch.where(index < 1 << 15, index, index - (1 << 16))
    code = torch.searchsorted(edges, cell << 16, right=True)
    code_at_end = torch.searchsorted(edges, (cell << 16) + 0xFFFF, right=True)
    threshold = edges[code.clamp(max=254)] & 0xFFFF
    carry = torch.where(code_at_end > code, (1 << 16) - threshold, 0)
    return (((code - cell) << 16) + carry).to(torch.int32).to(device)
