"""Those who are told of every event: a progress line, TensorBoard, trackers of a user's own.

None of them may stop a run: a tracker's server that is down, a terminal that was closed or a full disk costs its
picture of the training, not the training. One that fails is left alone for a while, twice as long each time, because
many fail slowly; and both its failing and its coming back are said.
"""

from collections.abc import Callable, Iterable, Iterator

from quatrain.runlog.events import Event, Noted, RunFinished

Sink = Callable[[Event], None]

_LONGEST_REST = 256
"""Events that pass by a sink that fails again and again, before it is tried once more."""


class Trackers:
    """Calls each sink with each event."""

    def __init__(self, sinks: Iterable[Sink]):
        self._trackers = [_Tracker(sink) for sink in sinks]

    def tell(self, event: Event) -> list[Noted]:
        """Hand an event to all. Returns what is to be said of those that fail, or work again."""
        return [note for tracker in self._trackers for note in tracker.tell(event)]


class _Tracker:
    def __init__(self, sink: Sink):
        self._sink = sink
        self._name = getattr(sink, "__qualname__", type(sink).__name__)
        self._failures = 0
        self._missed = 0
        self._rest = 0

    def tell(self, event: Event) -> Iterator[Noted]:
        if self._rest and not isinstance(event, RunFinished):
            self._rest -= 1
            self._missed += 1
            return
        try:
            self._sink(event)
        except Exception as error:
            # Somebody else's code may raise anything; whatever it is, it isn't the training that failed.
            self._failures += 1
            self._missed += 1
            self._rest = min(2**self._failures, _LONGEST_REST)
            if self._failures == 1:
                said = " ".join(str(error).split())
                yield Noted(
                    level="warning",
                    message=f"the tracker {self._name} failed ({type(error).__name__}: {said}). Training goes on, and "
                    "it is tried again now and then",
                )
            return
        if self._failures:
            yield Noted(message=f"the tracker {self._name} works again; it missed {self._missed} events")
            self._failures = self._missed = 0
