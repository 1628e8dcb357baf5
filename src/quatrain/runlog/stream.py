"""The events file: appended to while a run trains, read by anybody, cut back when a run resumes.

A line counts once its newline is on disk. Each event is handed to the operating system at once, so a crash of the
process loses nothing and a crash of the machine at worst leaves a last line without newline: the reader ignores it,
and the next writer removes it before it appends. Events aren't synced to the disk one by one, because on a network disk
that would cost more than a small model's step.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from quatrain.errors import CheckpointError
from quatrain.runlog.events import Event, from_json, to_json
from quatrain.untrusted import parse_json

Sink = Callable[[Event], None]


class EventWriter:
    """Appends events to a file and hands each to ``sinks`` (a progress line, TensorBoard), in that order.

    A context manager; one process writes a file at a time. To resume, call :func:`truncate_after` before opening.
    """

    def __init__(self, path: Path, sinks: Iterable[Sink] = ()):
        self.path = Path(path)
        self.sinks = tuple(sinks)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_torn_line(self.path)
        self._file = self.path.open("ab")

    def write(self, event: Event) -> None:
        """Append one event; when this returns, a reader sees it.

        Raises:
            CheckpointError: the disk is full or gone.
        """
        try:
            self._file.write(to_json(event).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(f"{self.path} can't be written ({error.strerror}); is the disk full?") from error
        for sink in self.sinks:
            sink(event)

    def close(self) -> None:
        self._file.close()

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
        CheckpointError: the file isn't there, or a complete line isn't JSON.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".new")
    with aside.open("wb") as file:
        for number, line in enumerate(_complete_lines(path), start=1):
            if _step_of(line, path, number) <= step:
                file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


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


def _complete_lines(path: Path) -> list[bytes]:
    """Lines that end in a newline. Split at that byte only: JSON strings may hold other line separators."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} isn't there: a run folder holds its events in it; was the path right?"
        ) from error


def _remove_torn_line(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
