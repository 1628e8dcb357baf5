"""Lines of a text file, read as bytes within bounds, each with its place.

A file without line ends (a binary, a gigabyte of one line) is given up after :data:`MAX_LINE_BYTES`, a compressed one
that unpacks to far more than text does after :data:`MAX_EXPANSION` times its size, and a broken byte is named by its
line and offset. Iterating over an opened text file would be shorter; it has none of the three.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from quatrain.data.rows import Place
from quatrain.errors import DataError, RowError

MAX_LINE_BYTES = 64 * 2**20
"""Longest line (and CSV row, and element of a JSON array) that is read. The longest training sample in sight is some
megabytes of text."""

MAX_EXPANSION = 200
"""Most bytes that a byte of a compressed file may become. Rows of text become some ten; gzip can reach a thousand."""
FREE_EXPANSION = 64 * 2**20
"""Bytes that any compressed file may become, so that a small and very regular one is read."""

BOM = b"\xef\xbb\xbf"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A context with the file's bytes, unpacked when its name ends in ``.gz``.

    Raises:
        DataError: whatever goes wrong with the file itself within the context.
    """
    try:
        with path.open("rb") as file:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_packed(path) else file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}.") from error


def is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def most_bytes(path: Path) -> int | None:
    """How many bytes the file may become when it is unpacked; None for one that isn't packed."""
    return path.stat().st_size * MAX_EXPANSION + FREE_EXPANSION if is_packed(path) else None


def check_expansion(path: Path, size: int, most: int | None) -> None:
    """Raises DataError once a packed file has become more than its size allows."""
    if most is not None and size > most:
        raise DataError(
            f"{path} unpacks to more than {size >> 20:,} MiB, over {MAX_EXPANSION} times its size, which text doesn't. "
            "If that is meant, unpack it first."
        )


class Lines:
    """An iterator over a file's lines without their ends (LF or CRLF) and without a byte-order mark.

    ``next`` raises RowError for a line that is too long or isn't UTF-8, and may then be called again for the line
    after it: this is a class because a generator is over once it has raised.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._most = file, path, most_bytes(path)
        self._number, self._offset, self._unfinished = 0, 0, False
        self.place = Place(str(path), 0, 0)
        """Where the line begins that was asked for last."""

    @property
    def upcoming(self) -> Place:
        """Where the next line begins."""
        return Place(str(self._path), self._number + 1, self._offset)

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        while self._unfinished:
            self._unfinished = not self._read().endswith(b"\n") and not self._at_end
        self.place = self.upcoming
        raw = self._read()
        if not raw:
            raise StopIteration
        self._number += 1
        if len(raw) > MAX_LINE_BYTES:
            self._unfinished = not raw.endswith(b"\n")
            reason = f"the line is longer than {MAX_LINE_BYTES >> 20} MiB; is it text?"
            raise RowError(self.place, "lines that are too long", reason)
        return self._decoded(raw).removesuffix("\n").removesuffix("\r")

    def _read(self) -> bytes:
        raw = self._file.readline(MAX_LINE_BYTES + 1)
        self._at_end = not raw
        self._offset += len(raw)
        check_expansion(self._path, self._offset, self._most)
        return raw

    def _decoded(self, raw: bytes) -> str:
        if self._number == 1 and raw.startswith(BOM):
            raw, self.place = raw[len(BOM) :], self.place._replace(byte=len(BOM))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            assert self.place.byte is not None
            raise not_utf8(self.place._replace(byte=self.place.byte + error.start), raw[error.start], error) from error


def not_utf8(place: Place, byte: int, error: UnicodeDecodeError) -> RowError:
    """The error for a byte that UTF-8 doesn't have there."""
    reason = f"byte {byte:#04x} isn't UTF-8 ({error.reason}). Save the file as UTF-8."
    return RowError(place, "not UTF-8", reason)
