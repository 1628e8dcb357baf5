"""The events' numbers for TensorBoard, beside the events file and never instead of it.

TensorBoard's own record writer puts them into the file, one event at a time. PyTorch's ``SummaryWriter`` would do it
from a thread: a disk that is full then shows as that thread's traceback, and as an error some events later. Here it
shows where it happens, and the next attempt begins a new file, because TensorBoard reads none beyond a torn record.

A resumed run's file begins with a session's start at the step that it goes on from: TensorBoard forgets the points that
an earlier file has from there on.
"""

import math
import os
import socket
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from quatrain.runlog.events import Evaluated, Event, StepDone


class TensorBoardSink:
    """A sink for :class:`~quatrain.runlog.stream.EventWriter` that writes scalars; other events pass by.

    Args:
        folder: where TensorBoard will look (``tensorboard --logdir``).
        resume_from: the step that a resumed run continues after; later points of the earlier run are hidden.
    """

    def __init__(self, folder: Path, resume_from: int | None = None):
        self._folder, self._resume_from = folder, resume_from
        self._file: Any = None

    def __call__(self, event: Event) -> None:
        """Write an event's numbers. Raises OSError if the disk can't."""
        if isinstance(event, StepDone):
            self._add(event, _step_scalars(event))
        elif isinstance(event, Evaluated):
            self._add(event, _evaluation_scalars(event))

    def _add(self, event: StepDone | Evaluated, scalars: dict[str, float | None]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        # Made from a description when they are imported, so nobody knows their types.
        records: Any = event_pb2
        summaries: Any = summary_pb2
        # TensorBoard draws a gap for a missing point; a NaN would only make it log a complaint.
        drawn = {name: value for name, value in scalars.items() if value is not None and math.isfinite(value)}
        summary: Any = summaries.Summary
        values = [summary.Value(tag=name, simple_value=value) for name, value in drawn.items()]
        record = records.Event(wall_time=event.time, step=event.step, summary=summary(value=values))
        try:
            self._file = self._file or self._begun()
            self._file.write(record.SerializeToString())
        except OSError:
            self.close()
            raise

    def _begun(self) -> Any:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        records: Any = event_pb2
        self._folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        # TensorBoard reads files in the order of their names.
        prefix = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        paths = (self._folder / f"{prefix}.{number:06d}" for number in count())
        file = RecordWriter(next(path for path in paths if not path.exists()).open("xb", buffering=0))
        file.write(records.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        if self._resume_from is not None:
            start = records.SessionLog(status=records.SessionLog.START)
            file.write(records.Event(wall_time=now, step=self._resume_from + 1, session_log=start).SerializeToString())
            self._resume_from = None
        return file

    def close(self) -> None:
        """Close the file; another event would begin a new one."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def __enter__(self) -> "TensorBoardSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _step_scalars(event: StepDone) -> dict[str, float | None]:
    return {
        "train/loss": event.loss,
        "train/learning_rate": event.learning_rate,
        "train/grad_norm": event.grad_norm,
        "speed/tokens_per_second": event.tokens_per_second,
        "memory/GiB": event.memory / 2**30,
        "memory/peak_GiB": event.peak_memory / 2**30,
    }


def _evaluation_scalars(event: Evaluated) -> dict[str, float | None]:
    scores = {f"{event.split}/{name}": value for name, value in event.metrics.items()}
    return {f"{event.split}/loss": event.loss, f"{event.split}/perplexity": event.perplexity, **scores}
