"""What stands on the page, as plain values: the big numbers, the charts, the answers side by side."""

from collections.abc import Callable
from typing import NamedTuple

from quatrain.report import wording
from quatrain.report.chart import Chart, chart
from quatrain.report.series import Point, Series, smoothed
from quatrain.report.summary import Change, RunSummary
from quatrain.runlog import DataRead, Evaluated, Event, Planned, Sampled, StepDone


class Tile(NamedTuple):
    """One of the big numbers on top."""

    label: str
    value: str
    before: str = ""
    """The value before training, when there is one to compare with."""
    note: str = ""


class DataSet(NamedTuple):
    """One data set and what became of its rows."""

    split: str
    rows: int
    samples: int
    counts: list[str]


class Answers(NamedTuple):
    """What the model answered to one prompt before and after training."""

    prompt: str
    reference: str | None
    before: str | None
    after: str | None


def tiles(summary: RunSummary) -> list[Tile]:
    """The numbers that a person looks at first: task scores, losses, then what the run cost."""
    scores = [c for c in summary.changes if c.name not in ("loss", "perplexity")]
    losses = [c for c in summary.changes if c.name == "loss"]
    shown = [_change_tile(c, f"{c.name.replace('_', ' ')}, {c.split}") for c in scores[:3]]
    shown += [_change_tile(c, f"loss, {c.split}") for c in losses[:2]]
    if summary.final_loss is not None and summary.first_loss is not None:
        before = wording.number(summary.first_loss) if summary.steps > 1 else ""
        shown.append(Tile("training loss", wording.number(summary.final_loss), before))
    if summary.steps:
        shown += [
            Tile("time", wording.duration(summary.seconds), note=f"{summary.steps:,} of {summary.total_steps:,} steps"),
            Tile(
                "tokens/s",
                wording.count(summary.tokens_per_second),
                note=wording.count(summary.tokens) + " in all",
            ),
            Tile("peak memory", wording.size(summary.peak_memory), note=_memory_note(summary)),
        ]
    return shown


def _memory_note(summary: RunSummary) -> str:
    """Where, and what was planned."""
    planned = f", planned {wording.size(summary.plan.predicted_peak)}" if summary.plan is not None else ""
    return summary.device + planned


def _change_tile(change: Change, label: str) -> Tile:
    after = "not yet" if change.after is None else wording.score(change.name, change.after)
    return Tile(label, after, "" if change.before is None else wording.score(change.name, change.before))


def charts(events: list[Event]) -> list[Chart]:
    """The plots, most telling first; what a run has no values for is left out."""
    steps = [e for e in events if isinstance(e, StepDone)]

    def curve(name: str, style: str, value: Callable[[StepDone], float]) -> Series:
        return Series(name, style, [(e.step, value(e)) for e in steps])

    def measured(value: Callable[[StepDone], float]) -> list[Series]:
        """A noisy number: each step's value, and the course that they take."""
        each = curve("each step", "faint", value)
        return [each, Series("smoothed", "main", smoothed(each.points))]

    speed = measured(lambda e: e.tokens_per_second)
    memory = [
        curve("after the step", "main", lambda e: e.memory / wording.GIB),
        curve("peak so far", "second", lambda e: e.peak_memory / wording.GIB),
        *_planned(events, steps),
    ]
    drawn = [
        chart("loss", "Loss", "nats per token", measured(lambda e: e.loss) + _evaluations(events), from_zero=False),
        chart("rate", "Learning rate", "", [curve("learning rate", "main", lambda e: e.learning_rate)]),
        chart("norm", "Gradient norm", "before clipping", measured(lambda e: e.grad_norm)),
        chart("speed", "Speed", "tokens/s", speed),
        chart("memory", "Memory", "GiB", memory),
    ]
    return [c for c in drawn if c is not None]


def _planned(events: list[Event], steps: list[StepDone]) -> list[Series]:
    """The peak that was planned for, as a level."""
    plans = [e.peak / wording.GIB for e in events if isinstance(e, Planned)]
    if not plans or not steps:
        return []
    return [Series("peak planned", "level", [(step.step, plans[-1]) for step in (steps[0], steps[-1])])]


def _evaluations(events: list[Event]) -> list[Series]:
    """The evaluation loss of each split, in dots."""
    by_split: dict[str, list[Point]] = {}
    for e in events:
        if isinstance(e, Evaluated) and e.loss is not None:
            by_split.setdefault(e.split, []).append((e.step, e.loss))
    styles = ("second", "third", "fourth")
    return [Series(split, styles[i % 3], points, markers=True) for i, (split, points) in enumerate(by_split.items())]


def data_sets(events: list[Event]) -> list[DataSet]:
    """What became of the rows of each data set, as they were read last: a resumed run reads them again."""
    last = {event.split: event for event in events if isinstance(event, DataRead)}
    return [
        DataSet(split, event.rows, event.samples, [f"{count:,}: {what}" for count, what in _counted(event)])
        for split, event in last.items()
    ]


def _counted(event: DataRead) -> list[tuple[int, str]]:
    """Counts in words, what is gone first."""
    bad = [(count, f"bad, left out ({what})") for what, count in event.bad.items()]
    dropped = [(count, f"left out ({what})") for what, count in event.dropped.items()]
    cut = [(event.cut, "cut at max_length")] if event.cut else []
    return [*bad, *dropped, *cut, *((count, f"kept, but odd ({what})") for what, count in event.found.items())]


def answers(events: list[Event]) -> list[Answers]:
    """One entry per prompt in order of appearance; a prompt answered twice shows its last answer."""
    samples: dict[str, dict[str, Sampled]] = {}
    for event in events:
        if isinstance(event, Sampled):
            samples.setdefault(event.prompt, {})[event.when] = event
    return [
        Answers(
            prompt,
            next((s.reference for s in found.values() if s.reference is not None), None),
            found["before"].answer if "before" in found else None,
            found["after"].answer if "after" in found else None,
        )
        for prompt, found in samples.items()
    ]
