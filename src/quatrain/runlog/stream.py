"""The events file: appended to while a run trains, read by anybody, cut back when a run resumes.

A line counts once its newline is on disk. Each event is handed to the operating system at once, so a crash of the
process loses nothing and a crash of the machine at worst leaves a last line without newline: the reader ignores it,
and the next writer removes it before it appends. Events aren't synced to the disk one by one, because on a network disk
that would cost more than a small model's step.

A disk that is full or gone doesn't stop a run: what can't be written is kept in memory and tried again with the next
event, and the file's folder, if somebody removed it, is made again with all that was in the file.
"""

import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from quatrain.errors import CheckpointError
from quatrain.files import file_aside
from quatrain.runlog.events import Event, Noted, from_json, to_json
from quatrain.runlog.trackers import Sink, Trackers
from quatrain.untrusted import parse_json

_MOST_HELD = 100_000
"""Events that are kept in memory while the disk takes none (some 40 MB); beyond these the oldest are given up."""
_BLOCK = 1 << 16


class EventWriter:
    """Appends events to a file and hands each to ``sinks`` (a progress line, TensorBoard), in that order.

    A context manager; one process writes a file at a time. To resume, call :func:`truncate_after` before opening.

    Raises:
        CheckpointError: on construction: the file can't be opened.
    """

    def __init__(self, path: Path, sinks: Iterable[Sink] = ()):
        self.path = Path(path)
        self._trackers = Trackers(sinks)
        self._held: deque[bytes] = deque(maxlen=_MOST_HELD)
        self._failing = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._size = remove_torn_line(self.path)
            self._file = _opened(self.path)
        except OSError as error:
            raise CheckpointError(f"{self.path} can't be written ({error.strerror}); choose another folder") from error

    def write(self, event: Event) -> None:
        """Append one event; when this returns, a reader sees it, unless the disk fails: then sinks are told so."""
        notes = self._append(event)
        notes += self._trackers.tell(event)
        for note in notes:
            # What fails now is told once as well, by the next event.
            self._append(note)
            self._trackers.tell(note)

    def close(self) -> None:
        """Write what is still held, if the disk takes it; sinks are told if it doesn't."""
        if self._held and self._flush() is not None:
            lost = f"{len(self._held)} events could not be written to {self.path}"
            self._trackers.tell(Noted(level="warning", message=lost))
        self._file.close()

    def _append(self, event: Event) -> list[Noted]:
        """Append it, or hold it. Returns what is to be said of the disk."""
        self._held.append(to_json(event).encode() + b"\n")
        error = self._flush()
        was_failing, self._failing = self._failing, error is not None
        if error is not None and not was_failing:
            said = (
                f"{self.path} can't be written ({error}). Training goes on, and events are held in memory until then. "
                "Free space on that disk, or make the folder writable"
            )
            return [Noted(level="warning", message=said)]
        if error is None and was_failing:
            return [Noted(message=f"{self.path} is written again")]
        return []

    def _flush(self) -> OSError | None:
        try:
            self._come_back()
            while self._held:
                self._put(self._held[0])
                self._held.popleft()
        except OSError as error:
            return error
        return None

    def _put(self, line: bytes) -> None:
        """One whole line, or none: the rest of one that the disk had no room for is cut off first."""
        if os.fstat(self._file.fileno()).st_size != self._size:
            self._file.truncate(self._size)
        written = self._file.write(line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written; is the disk full?")
        self._size += len(line)

    def _come_back(self) -> None:
        """If the file has lost its name, give it one again: what was written is still there for who has it open."""
        if self.path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file.seek(0)
        with file_aside(self.path) as copy:
            shutil.copyfileobj(self._file, copy)
            copy.truncate(self._size)
        self._file.close()
        self._file = _opened(self.path)

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(path: Path) -> list[Event]:
    """All events in the order written. A torn last line is ignored, and so are kinds that this version doesn't know.

    Raises:
        CheckpointError: the file isn't there, or a complete line can't be understood; the message names it.
    """
    events = []
    for number, line in enumerate(_complete_lines(Path(path)), start=1):
        try:
            event = from_json(line)
        except ValueError as error:
            raise CheckpointError(
                f"{path}, line {number}: every line must be one event as JSON; found {line[:80]!r} ({error}). "
                "Remove that line to read the rest."
            ) from error
        if event is not None:
            events.append(event)
    return events


def truncate_after(path: Path, step: int) -> None:
    """Forget all events of steps after ``step``, so that a run resumed from there doesn't show them twice.

    Events without a step (notes, starts) and kinds that this version doesn't know keep their place. The file is written
    aside and renamed, so a crash leaves either the old file or the new one.

    Raises:
        CheckpointError: the file isn't there, a complete line isn't JSON, or nothing can be written there.
    """
    path = Path(path)
    try:
        with file_aside(path) as file:
            for number, line in enumerate(_complete_lines(path), start=1):
                if _step_of(line, path, number) <= step:
                    file.write(line)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be cut back to step {step} ({error}); free space on that disk, or make the folder writable"
        ) from error


def _step_of(line: bytes, path: Path, number: int) -> int:
    """The step that a line belongs to; 0, which is always kept, for a line that belongs to none."""
    try:
        fields = parse_json(line)
    except ValueError as error:
        raise CheckpointError(
            f"{path}, line {number}: every line must be JSON; found {line[:80]!r}. Remove that line to resume."
        ) from error
    found = fields.get("step") if isinstance(fields, dict) else None
    return found if isinstance(found, int) else 0


def _complete_lines(path: Path) -> Iterator[bytes]:
    """Lines with the newline that ends them. Split at that byte only: JSON strings may hold other line separators."""
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} isn't there: a run folder holds its events in it; was the path right?"
        ) from error


def _opened(path: Path) -> BinaryIO:
    """For appending and reading, without a buffer: a write says at once how much of it the disk took."""
    return path.open("a+b", buffering=0)  # pyright: ignore[reportReturnType]


def remove_torn_line(path: Path) -> int:
    """Cut the file behind its last newline. Returns the bytes that are left."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        file.truncate(end)
    return end
