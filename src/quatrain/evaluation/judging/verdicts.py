"""Verdicts: which of two answers a judge prefers, read from and written to files of one row a verdict.

A row has the columns `model_a`, `model_b`, `item` and `verdict`. `model_a` is the system whose answer the judge read
first, and the verdict is about that order: "a" means that the first answer won. "unparsed" stands for a reply out of
which no verdict could be read; such rows stay in the file, are counted, and rate nobody.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from quatrain.data import BadRows, DataConfig
from quatrain.data.readers import READERS, is_readable, read_file
from quatrain.data.rows import Row
from quatrain.errors import DataError, RowError

Outcome = Literal["a", "b", "tie", "unparsed"]
OUTCOMES = get_args(Outcome)
COLUMNS = ("model_a", "model_b", "item", "verdict")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said of one pair of answers."""

    model_a: str
    """The system whose answer stood first."""
    model_b: str
    item: str
    """The question: equal in both orders of a pair, and for all pairs that answered it."""
    verdict: Outcome

    @property
    def key(self) -> tuple[str, str, str]:
        """What can be judged once only."""
        return self.model_a, self.model_b, self.item

    @property
    def swapped(self) -> "Verdict":
        """The same opinion with the answers in the other order."""
        return Verdict(self.model_b, self.model_a, self.item, _SWAPPED.get(self.verdict, self.verdict))


_SWAPPED: dict[Outcome, Outcome] = {"a": "b", "b": "a"}


def read_verdicts(path: Path) -> list[Verdict]:
    """All verdicts of a file (CSV, JSON lines, JSON or Parquet), in its order; other columns are ignored.

    Raises:
        DataError: the file can't be read or is empty; a row lacks a column, holds an unknown verdict, sets a system
            against itself, or says again what another row has said. The message names file and line.
    """
    if not path.is_file() or not is_readable(path):
        raise DataError(f"{path}: verdicts come from a file that ends in {', '.join(READERS)}, and this is none.")
    verdicts = list(unique_verdicts(read_file(path, BadRows(DataConfig(path=str(path))))))
    if not verdicts:
        raise DataError(f"{path} holds no verdicts; its rows must have the columns {', '.join(COLUMNS)}.")
    return verdicts


def unique_verdicts(rows: Iterable[Row]) -> Iterator[Verdict]:
    """The verdicts of rows. Raises RowError for a row that isn't one, or says again what another has said."""
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        verdict = _verdict(row)
        if verdict.key in seen:
            reason = f"{verdict.model_a} and {verdict.model_b} are judged on {verdict.item!r} a second time; keep one."
            raise RowError(row.where, "judged twice", reason)
        seen.add(verdict.key)
        yield verdict


def _verdict(row: Row) -> Verdict:
    model_a, model_b, item, outcome = (_text(row, column) for column in COLUMNS)
    if outcome not in OUTCOMES:
        reason = f"`verdict` must be one of {', '.join(OUTCOMES)}, found {outcome!r}."
        raise RowError(row.where, "an unknown verdict", reason)
    if model_a == model_b:
        raise RowError(row.where, "a system against itself", f"`model_a` and `model_b` are both {model_a!r}.")
    return Verdict(model_a, model_b, item, cast(Outcome, outcome))


def _text(row: Row, column: str) -> str:
    value: Any = row.values.get(column)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        reason = f"`{column}` must be a name or a number, found {value!r}; a verdict has {', '.join(COLUMNS)}."
        raise RowError(row.where, "not a verdict", reason)
    return str(value)
