"""The events of a run, and how one becomes a line of JSON and back.

A line is the event's fields plus ``kind``, the class' name::

    {"kind": "StepDone", "step": 1, "loss": 2.31, ..., "time": 1767225600.5}

The schema may grow: a reader skips kinds and fields that it doesn't know, and a field added later has a default. JSON
has no NaN or infinity, and a loss that became NaN is the one a person wants to see, so such numbers are written as the
strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which every JSON reader accepts and :func:`from_json` turns back.
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from quatrain.plain import without_secrets
from quatrain.untrusted import parse_json


@dataclass(frozen=True, kw_only=True)
class Event:
    """What all events have."""

    time: float = field(default_factory=time.time)
    """Unix time in seconds at which it happened."""


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """Training begins, or continues after a checkpoint. Settings stand in the run folder's config, not here."""

    base: str
    """The base model as the user named it: a hub name or a path."""
    device: str
    """The device's name, such as "NVIDIA H200" or "CPU"."""
    total_steps: int
    start_step: int = 0
    """Steps already done by the checkpoint that this continues; 0 for a fresh run."""
    trainable_parameters: int
    total_parameters: int
    base_bytes: int
    """Memory of the frozen base as it is stored: 4-bit codes and scales, and what stayed in 16 bits."""
    compute_dtype: str
    rows: int
    """Training rows in use, after dropping."""
    tokens: int
    supervised_tokens: int
    """Of ``tokens``, how many the loss is taken on, per epoch."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that compute, by package name."""


@dataclass(frozen=True, kw_only=True)
class DataRead(Event):
    """A data set was read: what became of its rows. Every row that isn't in use is counted somewhere here."""

    split: str
    """What it is for: "training", "held-out" or "task"."""
    rows: int
    """Rows that could be read."""
    samples: int
    """Of these, how many are in use."""
    cut: int = 0
    """Samples that were cut at their end."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason → rows that were left out: nothing to learn, too long."""
    bad: dict[str, int] = field(default_factory=dict)
    """What is wrong → rows that couldn't be read or rendered."""
    bad_first: list[str] = field(default_factory=list)
    """The first few of them with file, line, byte and reason."""
    found: dict[str, int] = field(default_factory=dict)
    """What is odd → rows that are in use all the same."""


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """The optimizer updates since the last such event: one, or as many as ``logging_steps`` says.

    Means and sums are over all of these steps, so that those of all events together are the run's; the other values
    are the last step's.
    """

    step: int
    """Counted from 1; the number of updates done."""
    loss: float
    """Mean cross-entropy per supervised token, in nats, over the steps since the last event, each before its update."""
    learning_rate: float
    """Of the last step."""
    grad_norm: float
    """L2 norm of the adapter's gradient before clipping, in the last step."""
    tokens: int
    """Tokens processed over the steps since the last event, in all micro-batches and on all devices."""
    supervised_tokens: int
    """Of ``tokens``, how many the loss was taken on."""
    seconds: float
    """Duration of the steps since the last event, waiting for data included, evaluation and checkpoints not."""
    memory: int
    """Bytes in use on the device after the step."""
    peak_memory: int
    """The most bytes in use on the device during the run so far."""
    epoch: float
    """Passes over the data done, such as 1.5."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Planned(Event):
    """What memory is to be used for was decided, and what a step should take. Bytes are of the device."""

    budget: int
    """What the process may take."""
    parts: dict[str, int]
    """What the device should hold at the fullest moment of a step."""
    peak: int
    """The most that tensors should occupy while training or evaluating: the measured peak's counterpart."""
    seconds: float
    """Of an optimizer step."""
    exact: bool
    """False: bytes are an upper bound."""
    notes: list[str]
    """Why, and what would be faster with more memory."""


@dataclass(frozen=True, kw_only=True)
class PlanChecked(Event):
    """Training is over: what a plan has predicted, beside what was measured."""

    step: int
    predicted_peak: int
    measured_peak: int
    predicted_seconds: float
    measured_seconds: float
    """Median of the last steps."""


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """The model was measured on data that it doesn't learn from; at step 0 this is the base before training."""

    step: int
    split: str
    """Which data, as shown to a person: "eval", "held-out", ..."""
    loss: float | None = None
    """Mean cross-entropy per supervised token, in nats; None when only a task was scored."""
    perplexity: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Task scores by name, such as {"exact_match": 0.84}."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on disk."""

    step: int
    path: str
    """Relative to the run folder, so that the folder can be moved."""
    size: int
    """Bytes on disk."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AdapterSaved(Event):
    """The adapter that the run was for is complete on disk."""

    step: int
    path: str
    """Relative to the run folder."""
    norms: dict[str, float]
    """How much it changes the base: adapted module → Frobenius norm of its update ΔW, block after block."""


@dataclass(frozen=True, kw_only=True)
class Sampled(Event):
    """The model answered a prompt, to show a person what training changed."""

    step: int
    prompt: str
    answer: str
    reference: str | None = None
    """The answer that the data holds, when there is one."""
    when: Literal["before", "after"]


@dataclass(frozen=True, kw_only=True)
class Noted(Event):
    """Something a person should know: rows dropped, a setting adjusted, a warning."""

    level: Literal["info", "warning", "error"] = "info"
    message: str


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """Training ended in an orderly way; a run whose events lack this crashed or is still going."""

    step: int
    status: Literal["completed", "interrupted", "failed"]
    seconds: float
    """Wall-clock time since the last :class:`RunStarted`."""
    tokens: int
    """Tokens processed since the last :class:`RunStarted`."""
    peak_memory: int


_LARGEST_COUNT = 10**100
"""JSON's integers may be beyond any float, with which they are to be divided."""

KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        *(RunStarted, DataRead, Planned, StepDone, PlanChecked),
        *(Evaluated, CheckpointSaved, AdapterSaved, Sampled, Noted, RunFinished),
    )
}


def to_json(event: Event) -> str:
    """The event as one line of strictly valid JSON, without the newline, and without secrets."""
    fields = {"kind": type(event).__name__, **dataclasses.asdict(event)}
    return json.dumps(_writable(fields), allow_nan=False)


def from_json(line: str | bytes) -> Event | None:
    """The event that a line holds; None when its kind is one that this version doesn't know.

    Raises:
        ValueError: the line isn't an object of JSON, or its fields don't fit its kind.
    """
    fields = parse_json(line)
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise ValueError('an event must be a JSON object with a "kind"')
    if any(isinstance(value, int) and abs(value) > _LARGEST_COUNT for value in fields.values()):
        raise ValueError("no run counts that far")
    kind = KINDS.get(fields.pop("kind"))
    return None if kind is None else _validator(kind).validate_python(fields)


@cache
def _validator(kind: type[Event]) -> Any:
    """Pydantic's check of a dataclass' field types; imported here because only readers need it."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _writable(value: Any) -> Any:
    """Numbers that aren't finite by their names, texts without secrets."""
    if isinstance(value, dict):
        return {key: _writable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_writable(inner) for inner in value]
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
