"""Where a block's frozen weights come from.

A product asks its modules for them, which is right while they lie on the device. Who keeps them elsewhere implements
`WeightSource` and hands each block its own when its turn comes; forward and backward of the block don't know the
difference.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import nn

from quatrain.quantization import QuantizedTensor

Handed = Mapping[nn.Module, QuantizedTensor]
"""The 4-bit weights of a block on the device, by the modules that they belong to."""


class WeightSource(Protocol):
    """Hands blocks their weights."""

    def hand(self, index: int, ahead: Iterable[int]) -> Handed:
        """What block `index` needs and doesn't find in its modules. Valid until the next call, for work that is asked
        of the device before it.

        Args:
            ahead: the blocks whose turn comes next, as far as anybody knows; taken up as far as there is room.
        """
        ...
