"""What the objective reads from a micro-batch."""

from typing import Protocol

from torch import Tensor

IGNORED = -100
"""The target where nothing is learned."""


class Batch(Protocol):
    """B rows (1 when packed) of T tokens, S samples; all tensors on the host."""

    @property
    def input_ids(self) -> Tensor:
        """[B, T] int64."""
        ...

    @property
    def targets(self) -> Tensor:
        """[B, T] int64: the token to predict from each position, -100 where none is."""
        ...

    @property
    def position_ids(self) -> Tensor:
        """[B, T] int64, from 0 in each sample."""
        ...

    @property
    def attention_mask(self) -> Tensor | None:
        """[B, T] with 1 for tokens and 0 for padding; None when packed."""
        ...

    @property
    def cu_seqlens(self) -> Tensor | None:
        """int32 [S + 1]: where each sample of a packed row begins, and the row's end; None when padded."""
        ...

    @property
    def longest(self) -> int:
        """No sample has more tokens."""
        ...
