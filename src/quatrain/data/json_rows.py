"""Rows out of JSON lines, or out of one JSON array, within bounds.

Python's parser takes more than can be meant: of a key that occurs twice it keeps the last value in silence, and
nesting is bounded by its stack only. Both are refused here, and so are numbers of thousands of digits, which take
quadratic time wherever they are printed. An array is read element by element through a window on the file, so that it
may be larger than the memory, stand on a single line, and have a bad element that is named.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from quatrain.data.bad_rows import BadRows
from quatrain.data.lines import BOM, MAX_LINE_BYTES, Lines, check_expansion, most_bytes, not_utf8, opened
from quatrain.data.rows import Place, Row
from quatrain.errors import DataError, RowError

MAX_DEPTH = 200
"""Lists and objects within each other. A conversation has four; a tree of replies two for each reply."""
MAX_DIGITS = 1000
"""Of a whole number."""

_CHUNK = 2**20
_SPACE = " \t\r\n"
_SPACES = re.compile(f"[{_SPACE}]*")


def read_jsonl(path: Path, bad: BadRows) -> Iterator[Row]:
    """A row for each line that isn't blank."""
    parser = _Parser()
    with opened(path) as file:
        lines = Lines(file, path)
        while True:
            try:
                line = next(lines, None)
                if line is None:
                    return
                if not line.strip():
                    continue
                row = Row(lines.place, parser.parse_line(line, lines.place))
            except RowError as error:
                bad.meet(error)
                continue
            yield row


def read_json(path: Path, bad: BadRows) -> Iterator[Row]:
    """A ``.json`` file is an array when its first character says so, and lines of objects otherwise."""
    with opened(path) as file:
        beginning = file.read(2**16).removeprefix(BOM).lstrip(_SPACE.encode())
    return _read_array(path, bad) if beginning.startswith(b"[") else read_jsonl(path, bad)


def _read_array(path: Path, bad: BadRows) -> Iterator[Row]:
    with opened(path) as file:
        window, parser = _Window(file, path), _Parser()
        window.skip("[")
        while window.peek() != "]":
            place = window.place()
            try:
                row = Row(place, parser.checked(*window.element(parser), place))
            except RowError as error:
                bad.meet(error)
            else:
                yield row
            if window.peek() == ",":
                window.skip(",")
            elif window.peek() != "]":
                raise DataError(f"{place}: after this element, ',' or ']' must follow in the array.")
        window.skip("]")
        if window.peek():
            raise DataError(f"{path}: something follows after the array's end; one file holds one array.")


class _Parser:
    """Python's parser, which notes what it wouldn't mind."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_int=self._integer)
        self._complaints: list[tuple[str, str]] = []

    def decode(self, text: str, start: int = 0) -> tuple[Any, int]:
        """A value and where it ends. Raises JSONDecodeError or RecursionError."""
        self._complaints.clear()
        return self._decoder.raw_decode(text, start)

    def parse_line(self, line: str, place: Place) -> dict[str, Any]:
        """The object on a line. Raises RowError."""
        start = len(line) - len(line.lstrip(_SPACE))
        try:
            value, end = self.decode(line, start)
            if rest := line[end:].strip(_SPACE):
                raise json.JSONDecodeError("Extra data", line, line.index(rest, end))
        except json.JSONDecodeError as error:
            raise RowError(_after(place, line[: error.pos]), "not JSON", f"not valid JSON: {error.msg}.") from error
        except RecursionError:
            raise _too_deep(place) from None
        return self.checked(value, line, place)

    def checked(self, value: Any, text: str, place: Place) -> dict[str, Any]:
        """The value that was decoded last from `text`, if it is an object that can be used. Raises RowError."""
        if self._complaints:
            raise RowError(place, *self._complaints[0])
        if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            raise _too_deep(place)
        if not isinstance(value, dict):
            reason = f"a row must be a JSON object with named columns, got {type(value).__name__}."
            raise RowError(place, "not an object", reason)
        return value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            self._complaints.append(("a key that occurs twice", f"the key {twice[:60]!r} occurs twice in one object."))
        return values

    def _integer(self, digits: str) -> int:
        if len(digits) <= MAX_DIGITS:
            return int(digits)
        self._complaints.append(("a number that is too long", f"a number has {len(digits):,} digits."))
        return 0


class _Window:
    """The part of a text file that is looked at: it grows at its end and loses what was read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._most = file, path, most_bytes(path)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._position, self._ended = "", 0, False
        self._fed = 0
        self._known, self._known_position = Place(str(path), 1, 0), 0

    def place(self) -> Place:
        """Where the position is."""
        self._known = _after(self._known, self._text[self._known_position : self._position])
        self._known_position = self._position
        return self._known

    def peek(self) -> str:
        """The next character that isn't white space; empty at the end of the file."""
        while True:
            space = _SPACES.match(self._text, self._position)
            self._position = space.end() if space else self._position
            if self._position < len(self._text) or not self._grow():
                return self._text[self._position : self._position + 1]

    def skip(self, expected: str) -> None:
        """Go over a character that is there."""
        found = self.peek()
        assert found == expected
        self._position += 1

    def element(self, parser: _Parser) -> tuple[Any, str]:
        """The value at the position and its text. The window grows to twice its size as long as it has no end.

        Raises:
            DataError: it isn't JSON, or too long: where the next element begins isn't known then.
        """
        while True:
            try:
                value, end = parser.decode(self._text, self._position)
                if end < len(self._text) or not self._grow():
                    begin, self._position = self._position, end
                    return value, self._text[begin:end]
            except json.JSONDecodeError as error:
                if len(self._text) - self._position > MAX_LINE_BYTES or not self._grow():
                    place = _after(self.place(), self._text[self._position : error.pos])
                    most = f"or the element is longer than {MAX_LINE_BYTES >> 20} MiB"
                    raise DataError(f"{place}: not valid JSON: {error.msg} ({most}).") from error
            except RecursionError:
                raise DataError(str(_too_deep(self.place()))) from None

    def _grow(self) -> bool:
        """Let go of what was read, and read on; False at the end of the file."""
        if self._ended:
            return False
        self.place()
        text, self._position, self._known_position = self._text[self._position :], 0, 0
        raw = self._file.read(max(_CHUNK, len(text)))
        self._ended = not raw
        if self._fed == 0 and raw.startswith(BOM):
            raw, self._fed, self._known = raw[len(BOM) :], len(BOM), self._known._replace(byte=len(BOM))
        self._text = text + self._decoded(raw, text)
        self._fed += len(raw)
        check_expansion(self._path, self._fed, self._most)
        return True

    def _decoded(self, raw: bytes, text: str) -> str:
        pending = len(self._decoder.getstate()[0])
        try:
            return self._decoder.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            line = self._known.number + text.count("\n") + error.object[: error.start].count(b"\n")
            place = Place(str(self._path), line, self._fed - pending + error.start)
            raise DataError(str(not_utf8(place, error.object[error.start], error))) from error


def _after(place: Place, text: str) -> Place:
    """The place behind `text`, which begins at `place`."""
    assert place.byte is not None
    return place._replace(number=place.number + text.count("\n"), byte=place.byte + len(text.encode()))


def _too_deep(place: Place) -> RowError:
    reason = f"lists and objects are nested more than {MAX_DEPTH} deep."
    return RowError(place, "nested too deeply", reason)


def _depth(value: Any) -> int:
    """Levels of lists and objects, walked with a stack of its own."""
    deepest, stack = 0, [(value, 1)]
    while stack:
        top, level = stack.pop()
        inner = top.values() if isinstance(top, dict) else top if isinstance(top, list) else ()
        stack += [(each, level + 1) for each in inner if isinstance(each, dict | list)]
        deepest = max(deepest, level)
    return deepest
