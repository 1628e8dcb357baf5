"""Run folders and configs of others: events, settings and locks that no run has written."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from quatrain.errors import CheckpointError, ConfigError
from quatrain.report import write_report
from quatrain.runlog import RunFolder, truncate_after
from quatrain.training import read_config
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place

Lines = list[dict[str, Any]]


def _events(at: Place, edit: Callable[[Lines], Any]) -> Call:
    run = RunFolder(at.run())
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]
    edit(lines)
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lambda: write_report(run)


def _first(lines: Lines, event: str, **changes: Any) -> None:
    next(line for line in lines if line["kind"] == event).update(changes)


def _add(lines: Lines) -> None:
    lines.append({"kind": "Whispered", "time": "later"})


for _words, _says, _changes in (
    ("a loss of 1e308", "no run has such a loss", {"loss": 1e308}),
    ("a step of 150 digits", "no run counts that far", {"step": 10**150}),
    ("memory of 400 digits", "no run counts that far", {"peak_memory": 10**400}),
    ("a loss that is a text", "every line must be one event as JSON", {"loss": "low"}),
    ("a kind that is a list", "every line must be one event as JSON", {"kind": []}),
):
    _edit = partial(_first, event="StepDone", **_changes)
    fault(f"events with {_words}", CheckpointError, _says)(partial(_events, edit=_edit))

for _words, _edit in {
    "a diverged run's losses": partial(_first, event="StepDone", loss="NaN", grad_norm="Infinity"),
    "steps that took no time": partial(_first, event="StepDone", seconds=1e-320),
    "a time that isn't a number": partial(_first, event="RunFinished", seconds="NaN"),
    "a kind that a later version writes": _add,
}.items():
    recovers(f"events with {_words}", "the report is written")(partial(_events, edit=_edit))


def _raw_events(at: Place, text: bytes, read: Callable[[RunFolder], Any]) -> Call:
    run = RunFolder(at.run())
    run.events.write_bytes(text)
    return lambda: read(run)


def _cut_back(run: RunFolder) -> None:
    truncate_after(run.events, 1)


for _words, _text in {
    "events nested a hundred thousand deep": b"[" * 100_000 + b"\n",
    "events that aren't UTF-8": b'{"kind": "Noted", "message": "\xff"}\n',
    "events that are no JSON": b"hello\n",
}.items():
    fault(_words, CheckpointError, "Remove that line")(partial(_raw_events, text=_text, read=write_report))
    fault(f"{_words}, when resuming", CheckpointError, "Remove that line")(
        partial(_raw_events, text=_text, read=_cut_back)
    )


def _bomb() -> str:
    """Ten lines that become ten billion words."""
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(levels)


YAML = {
    "that grows by its aliases": _bomb(),
    "that contains itself": "data: &a [*a]",
    "with a thousand aliases": "a: &a x\n" + "".join(f"b{i}: *a\n" for i in range(1000)),
    "nested a thousand deep": "data: " + "[" * 3000,
    "with a zero byte": "data: a\0b",
}

for _words, _text in YAML.items():
    fault(f"a config {_words}", ConfigError, "is not YAML")(
        partial(lambda at, text: partial(read_config, at.file("config.yaml", text)), text=_text)
    )


def _settings(at: Place, text: str) -> Call:
    run = RunFolder(at.run())
    run.config.write_text(text)
    return lambda: write_report(run)


for _words in ("that grows by its aliases", "that contains itself", "nested a thousand deep"):
    fault(f"a run of somebody else with a config {_words}", CheckpointError, "must be YAML")(
        partial(_settings, text=YAML[_words])
    )


@fault("a config of two megabytes", ConfigError, "it has more than")
def _(at: Place) -> Call:
    return partial(read_config, at.file("config.yaml", "# " + "x" * (2 << 20)))
