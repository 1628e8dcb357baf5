"""What a person sees while a run works: bars for preparations, one line for training.

On a terminal the line is redrawn in place; elsewhere (a log file, CI) a line is printed now and then instead.
"""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from quatrain.data import DataSummary
from quatrain.runlog import DataRead, Evaluated, Event, Noted, RunFinished, RunStarted, StepDone

_SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """Shows work and events; with ``enabled=False`` it stays silent. A context manager."""

    def __init__(self, *, enabled: bool = True):
        self._console = Console(file=sys.stderr, quiet=not enabled, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._total_steps = 0
        self._first: StepDone | None = None
        self._last_line = -_SECONDS_BETWEEN_LINES

    def __enter__(self) -> "ProgressDisplay":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def work(self, what: str, done: int, total: int) -> None:
        """Some piece of long work has come this far; `total` is 0 while it isn't known."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total or None, facts="")
        self._bars.update(self._tasks[what], completed=done, total=total or None)
        if total and done >= total:
            self._bars.remove_task(self._tasks.pop(what))
            self._console.print(f"{what}: done")

    def say(self, text: str) -> None:
        """One line for the person in front of it."""
        self._console.print(text, markup=False)

    def show(self, summary: DataSummary) -> None:
        """The data as it will be trained on, with one sample whose learned part stands out."""
        *facts, marked = str(summary).split("\none sample, learned parts in ⟦⟧:\n")
        self._console.print(Text("\n".join(facts)))
        if not self._console.is_terminal:
            self._console.print(Text(f"one sample, learned parts in ⟦⟧:\n{marked}"))
            return
        sample = Text("one sample, the learned part in green:\n")
        for text, learned in summary.example:
            sample.append(text, style="green" if learned else "dim")
        self._console.print(sample)

    def event(self, event: Event) -> None:
        """A sink for the run's events."""
        match event:
            case RunStarted():
                self._total_steps = event.total_steps
                self._console.print(
                    f"{event.total_parameters:,} parameters in {event.base_bytes / 2**20:,.0f} MiB on {event.device}, "
                    f"{event.trainable_parameters:,} trained; {event.total_steps:,} steps",
                    markup=False,
                )
            case DataRead() if event.split != "training":  # whose summary is shown in full
                counts = {**event.bad, **event.dropped, **event.found}
                shown = "".join(f"; {count:,}: {what}" for what, count in counts.items())
                self._console.print(
                    f"{event.split} data: {event.samples:,} of {event.rows:,} rows{shown}", markup=False
                )
            case StepDone():
                self._step(event)
            case Evaluated():
                scores = {"loss": event.loss, "perplexity": event.perplexity, **event.metrics}
                shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if value is not None)
                self._console.print(f"step {event.step}, {event.split}: {shown} ({event.seconds:.1f} s)", markup=False)
            case Noted():
                self._console.print(f"{event.level}: {event.message}", markup=False)
            case RunFinished():
                self._console.print(f"{event.status} after {event.step} steps, {_clock(event.seconds)}", markup=False)

    def _step(self, event: StepDone) -> None:
        self._first = self._first or event
        if "training" not in self._tasks:
            self._tasks["training"] = self._bars.add_task("training", total=self._total_steps, facts="")
        self._bars.update(self._tasks["training"], completed=event.step, facts=_facts(event))
        finished = event.step == self._total_steps
        waited = time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES
        if not self._console.is_terminal and (waited or finished):
            self._last_line = time.monotonic()
            left = _clock(self._seconds_left(event))
            self._console.print(f"step {event.step}/{self._total_steps}: {_facts(event)}, {left} left", markup=False)
        if finished:
            self._bars.remove_task(self._tasks.pop("training"))

    def _seconds_left(self, event: StepDone) -> float:
        assert self._first is not None
        taken = event.step - self._first.step
        per_step = (event.time - self._first.time) / taken if taken else event.seconds
        return per_step * (self._total_steps - event.step)


def _facts(event: StepDone) -> str:
    return (
        f"loss {event.loss:.4f}, {event.tokens_per_second:,.0f} tokens/s, "
        f"{event.memory / 2**30:.2f} GiB (peak {event.peak_memory / 2**30:.2f})"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
