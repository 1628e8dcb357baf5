"""The events' numbers for TensorBoard, beside the events file and never instead of it.

PyTorch's ``SummaryWriter`` is used because it is public, imports nothing of TensorFlow, and knows ``purge_step``: it
tells TensorBoard to forget points from that step on, which is what a resumed run needs.
"""

import math
from pathlib import Path
from types import TracebackType

from quatrain.runlog.events import Evaluated, Event, StepDone


class TensorBoardSink:
    """A sink for :class:`~quatrain.runlog.stream.EventWriter` that writes scalars; other events pass by.

    Args:
        folder: where TensorBoard will look (``tensorboard --logdir``).
        resume_from: the step that a resumed run continues after; later points of the earlier run are hidden.
    """

    def __init__(self, folder: Path, resume_from: int | None = None):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            str(folder), purge_step=None if resume_from is None else resume_from + 1, flush_secs=10
        )

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self._add(event, _step_scalars(event))
        elif isinstance(event, Evaluated):
            self._add(event, _evaluation_scalars(event))

    def _add(self, event: StepDone | Evaluated, scalars: dict[str, float | None]) -> None:
        for name, value in scalars.items():
            # TensorBoard draws a gap for a missing point; a NaN would only make it log a complaint.
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, event.step, walltime=event.time)

    def close(self) -> None:
        self._writer.close()

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
