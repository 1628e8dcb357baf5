"""A row as it was read, and where it was read."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a row begins, or what is wrong in it. Only written out (``str``) when something is wrong."""

    source: str
    """A file, or a data set's name and split."""
    number: int
    """Of the line, or of the row where the source has no lines; counted from 1."""
    byte: int | None = None
    """Offset in the (decompressed) file, counted from 0; None where there is no text."""
    unit: str = "line"

    def __str__(self) -> str:
        at = "" if self.byte is None else f", byte {self.byte}"
        return f"{self.source}, {self.unit} {self.number}{at}"


@dataclass(frozen=True)
class Row:
    """One row: ``where`` names it in errors, ``values`` maps columns to values."""

    where: Place
    values: dict[str, Any]
