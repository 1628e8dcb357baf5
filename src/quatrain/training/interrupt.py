"""Ctrl-C and SIGTERM ask for an orderly end: the step is finished and a checkpoint saved. A second one ends at once."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """A measurement was broken off because a stop was asked for."""


class StopRequest:
    """A context in which the first signal only sets :attr:`asked`. Outside of the main thread it does nothing, because
    Python delivers signals there only.

    Args:
        say: told once, when the first signal comes, what happens now.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, say: Callable[[str], None] = lambda text: None):
        self.asked = False
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._say("stopping after this step, with a checkpoint; once more stops at once, without")

    def check(self) -> None:
        """Raises :class:`Interrupted` if a stop was asked for."""
        if self.asked:
            raise Interrupted

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until a stop is asked for: then :class:`Interrupted` instead of the next."""
        for item in items:
            self.check()
            yield item
