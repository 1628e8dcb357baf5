"""Cosines and sines of the rotary embedding, looked up by position.

Scaled variants (Llama 3, YaRN, LongRoPE) differ in how they make the angles only, and the model's own rotary module
knows that; it is asked once, for all positions, in float32.
"""

from collections.abc import Callable

from torch import Tensor

MakeTables = Callable[[str, int], tuple[Tensor, Tensor]]
"""(kind, positions) → cosines and sines, float32 [positions, E], E half of the rotated width."""


class RotaryTables:
    """The tables of a model, made when they are first needed and again when longer ones are."""

    def __init__(self, make: MakeTables):
        self._make = make
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}

    def of(self, kind: str, positions: int) -> tuple[Tensor, Tensor]:
        """(cosines, sines) with at least `positions` rows."""
        tables = self._tables.get(kind)
        if tables is None or len(tables[0]) < positions:
            tables = self._tables[kind] = self._make(kind, positions)
        return tables
