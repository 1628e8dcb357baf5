"""A run in numbers: what the terminal prints at the end and what the page shows on top."""

import math
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from quatrain.errors import CheckpointError
from quatrain.report import wording
from quatrain.runlog import Evaluated, Event, PlanChecked, RunFinished, RunFolder, RunStarted, StepDone, read_events
from quatrain.untrusted import parse_yaml, read_text

_LARGEST = 1e100
"""Of an event's numbers. Larger ones come from a damaged file only, and means of them overflow."""

LAST_STEPS = 10
"""The final loss is a mean over this many steps: a single step's loss says more about its rows than about the model."""


@dataclass(frozen=True)
class Change:
    """One number before training and after it; None where it wasn't measured."""

    split: str
    name: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class RunSummary:
    """All that a run's folder says in single numbers."""

    base: str
    data: str
    quantization: str
    """How the base is stored, such as "nf4"; empty when the config doesn't say."""
    adapter: str
    device: str
    status: str
    """completed, interrupted, failed, or unfinished: still training, or crashed."""
    steps: int
    total_steps: int
    epochs: float
    seconds: float
    """Wall-clock time of all sessions of the run, breaks between them left out."""
    tokens: int
    tokens_per_second: float
    """Median over the steps."""
    first_loss: float | None
    final_loss: float | None
    """Mean over the last steps: not a number when one of theirs wasn't."""
    peak_memory: int
    trainable_parameters: int
    total_parameters: int
    base_bytes: int
    changes: list[Change]
    """Losses, perplexities and task scores, before and after training."""
    plan: PlanChecked | None = None
    """What was planned, beside what was measured; None without a plan, or before training has ended."""

    @property
    def short_base(self) -> str:
        """The base without the folders or the organisation before it."""
        return _last_part(self.base)

    @property
    def short_data(self) -> str:
        return _last_part(self.data)

    def __str__(self) -> str:
        """What the terminal prints: a few lines of facts and a table of what training changed."""
        speed = f"{wording.duration(self.seconds)}, {wording.number(self.tokens_per_second)} tokens/s"
        lines = [
            f"base     {self.short_base}, {wording.count(self.total_parameters)} parameters in "
            f"{wording.size(self.base_bytes)} ({self.quantization or 'not quantized'})",
            f"adapter  {self.adapter}, {wording.count(self.trainable_parameters)} parameters",
            f"data     {self.short_data}, {wording.number(self.epochs)} epochs, {wording.count(self.tokens)} tokens",
            f"run      {self.status}, step {self.steps} of {self.total_steps}, {speed}",
            f"memory   at most {wording.size(self.peak_memory)} on {self.device}",
            *_plan_lines(self.plan),
        ]
        return "\n".join([*lines, *_change_table(self.changes)])


def summarize(folder: RunFolder) -> RunSummary:
    """Read a run folder's config and events.

    Raises:
        CheckpointError: the folder holds no run, or its files can't be understood.
    """
    return summary_of(*read_run(folder))


def read_run(folder: RunFolder) -> tuple[dict[str, Any], list[Event]]:
    """The folder's settings, with dotted names, and its events.

    Raises:
        CheckpointError: the folder holds no run, its files can't be understood, or hold numbers that no run has.
    """
    config, events = read_config(folder), read_events(folder.events)
    for event in events:
        odd = [name for name, value in vars(event).items() if _is_odd(value)]
        if odd:
            raise CheckpointError(f"{folder.events}: no run has such a {odd[0]}: {getattr(event, odd[0])}")
    return config, events


def _is_odd(value: Any) -> bool:
    """Whether it is too large. A diverged run's numbers aren't finite, which is another matter."""
    if isinstance(value, dict):
        return any(map(_is_odd, value.values()))
    return isinstance(value, int | float) and _LARGEST < abs(value) != math.inf


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The run's settings as ``{"data.path": ...}``: nested ones get dotted names. Empty when the file isn't there."""
    if not folder.config.exists():
        return {}
    try:
        config = parse_yaml(read_text(folder.config))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder.config} must be YAML: {error}. Restore the file or remove it.") from error
    return dict(_flattened(config)) if isinstance(config, dict) else {}


def summary_of(config: dict[str, Any], events: list[Event]) -> RunSummary:
    """The summary of a config with dotted names and of events that are already read."""
    steps = [e for e in events if isinstance(e, StepDone)]
    starts = [e for e in events if isinstance(e, RunStarted)]
    start = starts[-1] if starts else None
    return RunSummary(
        base=start.base if start else "unknown model",
        data=str(config.get("data.path", config.get("data", "unknown data"))),
        quantization=str(config.get("quantization") or ""),
        adapter=_adapter(config),
        device=start.device if start else "unknown device",
        status=_status(events),
        steps=steps[-1].step if steps else 0,
        total_steps=start.total_steps if start else 0,
        epochs=steps[-1].epoch if steps else 0.0,
        seconds=_wall_seconds(events),
        tokens=sum(e.tokens for e in steps),
        tokens_per_second=median(e.tokens_per_second for e in steps) if steps else 0.0,
        first_loss=steps[0].loss if steps else None,
        final_loss=fmean(e.loss for e in steps[-LAST_STEPS:]) if steps else None,
        peak_memory=max((e.peak_memory for e in steps), default=0),
        trainable_parameters=start.trainable_parameters if start else 0,
        total_parameters=start.total_parameters if start else 0,
        base_bytes=start.base_bytes if start else 0,
        plan=next((e for e in reversed(events) if isinstance(e, PlanChecked)), None),
        changes=_changes([e for e in events if isinstance(e, Evaluated)]),
    )


def _plan_lines(plan: PlanChecked | None) -> list[str]:
    if plan is None:
        return []
    predicted = f"{wording.size(plan.predicted_peak)} and {wording.number(plan.predicted_seconds)} s a step predicted"
    measured = f"{wording.size(plan.measured_peak)} and {wording.number(plan.measured_seconds)} s measured"
    return [f"plan     {predicted}, {measured}"]


def _last_part(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path


def _flattened(settings: dict[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        inner = isinstance(value, dict) and value
        pairs += _flattened(value, f"{prefix}{key}.") if inner else [(f"{prefix}{key}", value)]
    return pairs


def _adapter(config: dict[str, Any]) -> str:
    """The adapter in a few words, such as "LoRA r = 16 on all-linear"."""
    if config.get("adapter"):
        return f"LoRA, continued from {config['adapter']}"
    targets = config.get("lora.target_modules", "all-linear")
    targets = ", ".join(map(str, targets)) if isinstance(targets, list) else targets
    return f"LoRA r = {config['lora.r']} on {targets}" if "lora.r" in config else "LoRA"


def _status(events: list[Event]) -> str:
    """The last orderly end, unless something was trained after it."""
    for event in reversed(events):
        if isinstance(event, RunFinished):
            return event.status
        if isinstance(event, RunStarted | StepDone):
            break
    return "unfinished"


def _wall_seconds(events: list[Event]) -> float:
    """Each session lasts from its start to the last event before the next one's start."""
    total, begin, last = 0.0, None, 0.0
    for event in events:
        if isinstance(event, RunStarted):
            total += last - begin if begin is not None else 0.0
            begin = event.time
        last = event.time
    return total + (last - begin if begin is not None else 0.0)


def _change_table(changes: list[Change]) -> list[str]:
    rows = [("", "before", "after")]
    for change in changes:
        before, after = (wording.score(change.name, v) if v is not None else "–" for v in (change.before, change.after))
        rows.append((f"{change.split} {change.name}", before, after))
    width = max(len(row[0]) for row in rows)
    return ["", *(f"{name:<{width}}  {before:>10}  {after:>10}" for name, before, after in rows)] if changes else []


def _changes(evaluations: list[Evaluated]) -> list[Change]:
    """For each number that was measured: its value at step 0, and its last value at a later step."""
    before: dict[tuple[str, str], float] = {}
    after: dict[tuple[str, str], float] = {}
    for event in evaluations:
        for name, value in {"loss": event.loss, "perplexity": event.perplexity, **event.metrics}.items():
            if value is not None:
                (before if event.step == 0 else after)[event.split, name] = value
    return [Change(*key, before.get(key), after.get(key)) for key in dict.fromkeys([*before, *after])]
