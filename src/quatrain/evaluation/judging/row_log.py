"""Rows that cost time or money: appended to a file of JSON lines as they come, and never made twice.

Beside `NAME.jsonl` lies `NAME.settings.json`: all that decides what a row says. A process that goes on where another
was stopped must have the same settings, or the file would hold rows of two kinds. Each row is on the disk before the
next is made, which costs nothing beside what a row costs; a last line that a crash has torn is removed by the next
writer, and left out by readers.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from quatrain.data.rows import Place, Row
from quatrain.errors import ConfigError, DataError, OutputError
from quatrain.files import file_aside
from quatrain.runlog.lock import locked
from quatrain.runlog.stream import remove_torn_line
from quatrain.untrusted import parse_json, read_json

SUFFIX = ".jsonl"


class RowLog:
    """A file that this process appends to; made by :func:`row_log`."""

    def __init__(self, path: Path, file: BinaryIO, rows: list[Row]):
        self._path, self._file = path, file
        self.rows = rows
        """Those that were there when it was opened."""

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All of the rows in one write.

        Raises:
            OutputError: the disk can't take them.
        """
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"{self._path} can't be written ({error}); what it holds stays. Free space") from error


@contextmanager
def row_log(path: Path, settings: Mapping[str, Any]) -> Iterator[RowLog]:
    """The log at `path`, for this process alone.

    Args:
        path: ends in ``.jsonl``; its folder is made.
        settings: plain values.

    Raises:
        ConfigError: the log was begun with other settings.
        CheckpointError: another process writes to it.
        DataError: what is there can't be read.
        OutputError: the disk can't be written to.
    """
    with locked(path.with_suffix(".lock")):
        try:
            remove_torn_line(path)
            rows = read_log(path) if path.exists() else []
            _settle(settings_file(path), settings, begun=bool(rows))
            file = path.open("ab")
        except OSError as error:
            raise OutputError(f"{path} can't be written ({error}); choose another folder") from error
        with file:
            yield RowLog(path, file, rows)


def read_log(path: Path) -> list[Row]:
    """All complete rows.

    Raises:
        DataError: it can't be read, or a row isn't a JSON object.
    """
    rows, byte = [], 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                place = Place(str(path), number, byte)
                byte += len(line)
                if line.endswith(b"\n"):
                    rows.append(Row(place, _object(line, place)))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error})") from error
    return rows


def settings_file(path: Path) -> Path:
    """Where a log's settings lie."""
    return path.with_suffix(".settings.json")


def _object(line: bytes, place: Place) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON ({error}); remove the line to read the rest") from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: every line must be a JSON object, found {line[:80]!r}; remove the line")
    return value


def _settle(path: Path, settings: Mapping[str, Any], *, begun: bool) -> None:
    """Write the settings of a new log, or compare them with those it was begun with."""
    if not begun:
        with file_aside(path) as file:
            file.write(json.dumps(dict(settings), indent=1, ensure_ascii=False).encode() + b"\n")
        return
    try:
        before = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must say with which settings its rows were made ({error})") from error
    if not isinstance(before, dict):
        raise DataError(f"{path} must hold the settings that its rows were made with, as a JSON object")
    missing = object()
    changed = [name for name in {**before, **settings} if before.get(name, missing) != settings.get(name, missing)]
    if changed:
        said = "; ".join(f"{name} was {before.get(name)!r}, is {settings.get(name)!r}" for name in changed)
        raise ConfigError(
            f"the rows beside {path} were made with other settings ({said}). Give the same to go on, or another name "
            "or folder to begin anew"
        )
