"""Keys and values of all sequences and blocks, in memory that never moves.

A sequence's tokens lie from the beginning of its row on, whatever the lengths of its neighbours, so nothing is padded,
and a row's length is also the position of its next token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from quatrain.blocks import BlockSpec

_BETWEEN = 64
"""Capacities are rounded up to a multiple of this."""


class Cache:
    """Room for `capacity` tokens of each of `rows` sequences.

    Attributes:
        keys, values: [rows, capacity, G, D] for each block.
        lengths: int64 [rows], tokens of each sequence, on the device.
    """

    def __init__(self, specs: Sequence[BlockSpec], rows: int, capacity: int, device: torch.device, dtype: torch.dtype):
        self.capacity = -(-capacity // _BETWEEN) * _BETWEEN
        shapes = [(rows, self.capacity, spec.num_kv_heads, spec.head_dim) for spec in specs]
        # Zeros, since attention multiplies what it hides by zero.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for shape in shapes]
        self.lengths = torch.zeros(rows, device=device, dtype=torch.int64)

    def write(self, block: int, rows_T: Tensor, positions_T: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> None:
        """Store keys and values of tokens at (row, position)."""
        self.keys[block][rows_T, positions_T] = k_TGD
        self.values[block][rows_T, positions_T] = v_TGD
