"""Rows out of one local file: JSON lines, a JSON array, CSV, Parquet; text files also gzipped.

Each reader yields :class:`Row`, which carries the place that it came from, so that whatever is wrong with a row later
(its JSON, its columns, its roles) is reported as *file, line, byte, reason*. What is wrong with one row goes to
:class:`BadRows`, which may let the reader go on; what is wrong with the file ends it. pandas or pyarrow's JSON reader
would be shorter here, but they infer types over many rows at once and can't say which line was bad.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quatrain.data.bad_rows import BadRows
from quatrain.data.json_rows import read_json, read_jsonl
from quatrain.data.lines import FREE_EXPANSION, MAX_EXPANSION, MAX_LINE_BYTES, Lines, opened
from quatrain.data.rows import Place, Row
from quatrain.errors import DataError, RowError

PARQUET_BATCH = 64
"""Rows that are unpacked at once, or fewer where they may be large."""
PARQUET_BATCH_BYTES = 512 * 2**20
"""A value can't be larger than the stored part of a column that it stands in, but it may occur in all rows of a batch:
so many bytes at most are taken by a column of a batch."""


def read_file(path: Path, bad: BadRows) -> Iterator[Row]:
    """Yields a file's rows; its name's ending decides how.

    Raises:
        DataError: the file can't be read, or `bad` doesn't let a bad row pass; the message names the place and reason.
    """
    return READERS[suffix(path)](path, bad)


def suffix(path: Path) -> str:
    """The ending that decides on the reader: the last one in lower case, with ``.gz`` looked through."""
    name = path.name.lower().removesuffix(".gz")
    return name[name.rfind(".") :] if "." in name else ""


def is_readable(path: Path) -> bool:
    """Whether the name's ending is one that we read."""
    return suffix(path) in READERS and not (suffix(path) == ".parquet" and path.name.lower().endswith(".gz"))


def _read_csv(path: Path, bad: BadRows) -> Iterator[Row]:
    """The first line names the columns. A quoted field may hold line ends; a row is named by its first line."""
    with opened(path) as file:
        records = _Records(Lines(file, path))
        header = next(records, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            place = records.place
            raise DataError(f"{place}: a column name occurs twice: {header}. The first line must name the columns.")
        while True:
            try:
                record = next(records, None)
                if record is None:
                    return
                if len(record) != len(header):
                    reason = f"{len(record)} fields, but the first line names {len(header)} columns."
                    raise RowError(records.place, "another number of fields", reason)
            except RowError as error:
                bad.meet(error)
                continue
            yield Row(records.place, dict(zip(header, record, strict=True)))


class _Records:
    """An iterator over the records of a CSV file that aren't blank, which goes on after a bad one."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._reader = csv.reader(self, strict=True)
        self._feeding = False
        self.place = lines.upcoming
        """Where the record begins that was asked for last."""

    def __iter__(self) -> "_Records":
        return self

    def __next__(self) -> Any:
        """A line when the csv module asks for one, and a record when we do."""
        if self._feeding:
            return self._line()
        record: list[str] = []
        while not record:
            record = self._record()
        return record

    def _line(self) -> str:
        line = next(self._lines)
        assert self._lines.upcoming.byte is not None and self.place.byte is not None
        if self._lines.upcoming.byte - self.place.byte > MAX_LINE_BYTES:
            reason = f"the row is longer than {MAX_LINE_BYTES >> 20} MiB; is a quote missing?"
            raise RowError(self.place, "lines that are too long", reason)
        return line + "\n"

    def _record(self) -> list[str]:
        # The module's limit on a field's size is process-wide and small (128 KiB); it is raised only while we read.
        before = csv.field_size_limit(MAX_LINE_BYTES)
        self.place, self._feeding = self._lines.upcoming, True
        try:
            return next(self._reader)
        except csv.Error as error:
            raise RowError(self.place, "not CSV", f"not valid CSV: {error}.") from error
        finally:
            csv.field_size_limit(before)
            self._feeding = False


def _read_parquet(path: Path, bad: BadRows) -> Iterator[Row]:
    """Parquet has no bad rows: a file reads as a whole, or it is damaged."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_rows_at_once(path, file.metadata)):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(Place(str(path), number, unit="row"), values)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as Parquet after row {number}: {error}.") from error


def _rows_at_once(path: Path, metadata: Any) -> int:
    """From what a file says of the size of its columns. Raises DataError where that is out of all proportion."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    sizes = [group.column(c).total_uncompressed_size for group in groups for c in range(group.num_columns)]
    if sum(sizes) > path.stat().st_size * MAX_EXPANSION + FREE_EXPANSION:
        raise DataError(
            f"{path} unpacks to {sum(sizes) >> 20:,} MiB, over {MAX_EXPANSION} times its size, which text doesn't. "
            "If that is meant, store it without compression."
        )
    return max(1, min(PARQUET_BATCH, PARQUET_BATCH_BYTES // max([1, *sizes])))


READERS: dict[str, Callable[[Path, BadRows], Iterator[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
