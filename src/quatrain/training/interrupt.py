"""Ctrl-C and SIGTERM ask for an orderly end: the step is finished and a checkpoint saved. A second one ends at once.

A step can take minutes, and those who stop programs have less patience: Kubernetes and Slurm send SIGKILL 30 seconds
after SIGTERM. So a step that would take longer than :data:`PATIENCE_S` from then on is left after its present
micro-batch, and saved with its gradient so far; resuming takes it up there.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_S = 15.0
"""Seconds that a step may still take when a stop is asked for. As many again are left for the checkpoint."""


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
        self._asked_at = 0.0
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
            # What hangs in a library doesn't hear of the exception: the next signal is the system's to handle.
            for each in self._SIGNALS:
                signal.signal(each, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.asked, self._asked_at = True, time.monotonic()
        self._say(
            f"stopping with a checkpoint: after this step, or within it if it takes longer than {PATIENCE_S:.0f} s; "
            "once more stops at once, without one"
        )

    def waits(self, seconds: float) -> bool:
        """Whether there is time for work of so many seconds: always, until a stop is asked for."""
        return not self.asked or time.monotonic() - self._asked_at + seconds <= PATIENCE_S

    def check(self) -> None:
        """Raises :class:`Interrupted` if a stop was asked for."""
        if self.asked:
            raise Interrupted

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until a stop is asked for: then :class:`Interrupted` instead of the next."""
        for item in items:
            self.check()
            yield item
