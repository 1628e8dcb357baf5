"""Rows out of one local file: JSON lines, a JSON array, CSV, Parquet; text files also gzipped.

Each reader yields :class:`Row`, which carries the place that it came from, so that whatever is wrong with a row later
(its JSON, its columns, its roles) is reported as *file, line, reason*. Text is read as bytes, line by line with a
bound on the line's length, and decoded line by line: a broken byte is then named with its line, and a file without
line ends (a binary, a gzip bomb) can't fill the memory. pandas or pyarrow's JSON reader would be shorter here, but
they infer types over many rows at once and can't say which line was bad.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from quatrain.errors import DataError

MAX_LINE_BYTES = 64 * 2**20
"""Longest line (and CSV field) that is read. The longest training sample in sight is some megabytes of text."""


@dataclass(frozen=True)
class Row:
    """One row as it was read: ``where`` is "file, line 3" for error messages, ``values`` maps columns to values."""

    where: str
    values: dict[str, Any]


def read_file(path: Path) -> Iterator[Row]:
    """Yields a file's rows; its name's ending decides how.

    Raises:
        DataError: the file can't be read, or a row of it can't; the message names file, line and reason.
    """
    return READERS[suffix(path)](path)


def suffix(path: Path) -> str:
    """The ending that decides on the reader: the last one in lower case, with ``.gz`` looked through."""
    name = path.name.lower().removesuffix(".gz")
    return name[name.rfind(".") :] if "." in name else ""


def is_readable(path: Path) -> bool:
    """Whether the name's ending is one that we read."""
    return suffix(path) in READERS and not (suffix(path) == ".parquet" and path.name.lower().endswith(".gz"))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their line ends (LF or CRLF), decoded; a byte-order mark at the start is dropped."""
    try:
        with _open(path) as file:
            number = 0
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                yield number, _decode(raw, path, number)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}.") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


def _decode(raw: bytes, path: Path, number: int) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise DataError(f"{path}, line {number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB; is it text?")
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: byte {raw[error.start]:#04x} at column {error.start + 1} isn't UTF-8 "
            f"({error.reason}). Save the file as UTF-8."
        ) from error
    return line.removesuffix("\n").removesuffix("\r")


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            yield Row(where, _as_object(_parse(line, where), where))


def _read_json(path: Path) -> Iterator[Row]:
    """A ``.json`` file is an array when its first character says so, and lines of objects otherwise."""
    first = next((line.lstrip() for _, line in _lines(path) if line.strip()), "")
    return _read_array(path) if first.startswith("[") else _read_jsonl(path)


def _read_array(path: Path) -> Iterator[Row]:
    """Walks over the array's elements one at a time, so that a bad one is named by its line."""
    text = "\n".join(line for _, line in _lines(path))
    decoder = json.JSONDecoder()
    position = _skip_space(text, text.index("[") + 1)
    line, counted = 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        where = f"{path}, line {line}"
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON: {error}.") from error
        yield Row(where, _as_object(value, where))
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise DataError(f"{where}: after this element, ',' or ']' must follow in the array.")
    if text[position + 1 :].strip():
        raise DataError(f"{path}: something follows after the array's end; one file holds one array.")


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\n", "\r", "\t"):
        position += 1
    return position


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}.") from error


def _as_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be a JSON object with named columns, got {type(value).__name__}.")
    return value


def _read_csv(path: Path) -> Iterator[Row]:
    """The first line names the columns. A quoted field may hold line ends; the line named is the row's last."""
    reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
    header = _next_record(reader, path)
    if header is None:
        return
    if len(set(header)) != len(header):
        raise DataError(f"{path}, line 1: a column name occurs twice: {header}. The first line must name the columns.")
    while (record := _next_record(reader, path)) is not None:
        where = f"{path}, line {reader.line_num}"
        if not record:
            continue
        if len(record) != len(header):
            raise DataError(f"{where}: {len(record)} fields, but the first line names {len(header)} columns.")
        yield Row(where, dict(zip(header, record, strict=True)))


def _next_record(reader: Any, path: Path) -> list[str] | None:
    # The module's limit on a field's size is process-wide and small (128 KiB); it is raised only while we read.
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", values)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as Parquet after row {number}: {error}.") from error


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
