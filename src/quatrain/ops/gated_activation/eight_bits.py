"""Gate and up in 8 bits: whole numbers from −127 to 127, and a float32 scale for every 128 of a row.

The activation reads gate and up anyway, and its backward does too. So one writes the codes while it has the values, the
other reads codes instead: keeping them takes half of the memory and no pass of its own.

The largest magnitude of a block is ±127, so a value is off by 1/254 of it at most. An 8-bit float (e4m3) is exact near
zero and off by up to 1/16 of each value elsewhere, which is three times the error in the gradient. Scales cost 3 % of
the codes; one for 32 values instead of 128 would take 9 % more and a quarter of the error off. (Both errors were read
by hand from a script that wasn't kept; `LOG.md` has them.)
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 128
"""Values of a row that share a scale. Gate and up don't share any."""


class EightBits(NamedTuple):
    """Gate and up [T, 2F] in 8 bits."""

    codes_TF2: Tensor
    """int8 [T, 2F]."""
    scales_TB2: Tensor
    """float32 [T, 2 · ⌈F/128⌉], the gate's in the first half: what a code of 1 stands for."""

    @classmethod
    def room(cls, tokens: int, columns: int, device: torch.device) -> "EightBits":
        """Uninitialized memory for gate and up of `columns` columns each."""
        codes_TF2 = torch.empty(tokens, 2 * columns, dtype=torch.int8, device=device)
        return cls(codes_TF2, torch.empty(tokens, 2 * -(-columns // BLOCK), dtype=torch.float32, device=device))
