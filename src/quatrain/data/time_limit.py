"""A bound on the time that a stranger's program may take: chat templates can loop, and their sandbox lets them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Within it, Python code is stopped after that much computing time of this process.

    Two system calls and no thread, so it may stand around every row. It is a timer of the main thread's signals: in
    other threads, and on systems without it, nothing is bounded. A single operation in C isn't interrupted either.

    Raises:
        TimeoutError: the time is up.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise TimeoutError("it takes forever")
