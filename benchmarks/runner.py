"""Runs a case: every contender in a process of its own, one after the other, each entry recorded as it comes."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.case import QUATRAIN, Case, Contender, Row
from benchmarks.machine import missing
from benchmarks.process import Ended, run

MAKING_A_MODEL_S = 600

Command = Callable[[Case, Contender, Path], Sequence[str]]
"""(case, contender, file for its report) → the command of the contender's process."""


@dataclass(frozen=True)
class Runner:
    """What is common to all cases of one call of the program."""

    results: Path
    models: Path
    """Folder of the checkpoints, made as they are needed; logs and caches of compiled code lie in it too."""
    quick: bool = False
    limit_s: float | None = None
    """Instead of each case's own limit."""
    say: Callable[[str], None] = print
    command: Command | None = None
    """Instead of the worker's."""

    def run_case(self, case: Case, contenders: Sequence[str] | None = None) -> None:
        """Measures the case's contenders, or those of them that are named, in turns, and records every entry."""
        chosen = [who for who in case.contenders if contenders is None or who.name in contenders]
        able = [who for who in chosen if not self._skip(case, who)]
        if not able or not self._models_are_there(case, able):
            return
        with tempfile.TemporaryDirectory(prefix="quatrain-benchmark-") as scratch:
            turns: dict[Contender, list[dict[str, Any]]] = {who: [] for who in able}
            for number in range(case.rounds):
                for who in able:
                    turns[who].append(self._turn(case, who, Path(scratch), number))
                    self._record(case, who, entry_of(who, turns[who], quick=self.quick))

    def _skip(self, case: Case, who: Contender) -> bool:
        absent = missing(who)
        if absent:
            self._record(case, who, _entry("skipped", f"not installed: {', '.join(absent)}"))
        return bool(absent)

    def _models_are_there(self, case: Case, able: Sequence[Contender]) -> bool:
        """Makes the missing ones, in processes of their own, so that this one never holds memory on a GPU."""
        for name in case.models:
            if (self.models / name).exists():
                continue
            self.say(f"{case.name}: making the checkpoint {name}")
            command = [sys.executable, "-m", "benchmarks.checkpoints", name, str(self.models)]
            ended = run(command, environment={}, limit_s=MAKING_A_MODEL_S, log=self._log(f"checkpoint-{name}"))
            if ended.status != "finished":
                for who in able:
                    self._record(case, who, _entry("failed", f"no checkpoint {name}: {ended.reason}"))
                return False
        return True

    def _turn(self, case: Case, who: Contender, scratch: Path, number: int) -> dict[str, Any]:
        """What the contender's process reported, and under "ended" how it ended."""
        report, log = scratch / f"{who.name}-{number}.json", self._log(f"{case.name}-{who.name}")
        caches = scratch / f"caches-{who.name}-{number}" if case.fresh_caches else self.models / "compiled"
        began = time.monotonic()
        ended = run(
            self._command(case, who, report),
            environment=environment(case, caches),
            limit_s=self.limit_s or case.limit_s,
            log=log,
        )
        took = time.monotonic() - began
        more = "" if ended.status == "finished" else f", {ended.reason}; see {log}"
        self.say(f"{case.name}, {who.title}: {ended.status} in {took:.0f} s{more}")
        return (results.read(report) if report.exists() else {}) | {"ended": ended}

    def _log(self, name: str) -> Path:
        folder = self.models / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    def _command(self, case: Case, who: Contender, report: Path) -> Sequence[str]:
        if self.command is not None:
            return self.command(case, who, report)
        command = [sys.executable, "-m", "benchmarks.worker", case.name, who.name]
        command += ["--models", str(self.models), "--report", str(report), "--started", repr(time.time())]
        return [*command, *(["--quick"] if self.quick else [])]

    def _record(self, case: Case, who: Contender, entry: Mapping[str, Any]) -> None:
        results.record(self.results, case, who.name, entry)
        if entry["status"] != results.MEASURED:
            self.say(f"{case.name}, {who.title}: {entry['status']}, {entry['reason']}")
        for label, row in entry.get("rows", {}).items():
            shown = [f"{metric} {_short(row[metric])}" for metric in case.kind.shows if metric in row]
            self.say(f"  {label}: {', '.join(shown)}")


def environment(case: Case, caches: Path) -> dict[str, str]:
    """What a contender's process finds set, beside what is set already."""
    found = {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": str(caches / "unsloth"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
    }
    if case.device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found | dict(case.environment)


def entry_of(who: Contender, turns: Sequence[Mapping[str, Any]], *, quick: bool) -> dict[str, Any]:
    """One entry from a contender's turns.

    Figures whose gate found an error don't count. Those of a peer whose gate broke down after the measurement are
    "unchecked", and the table says so; ours don't count then.
    """
    last, ended = turns[-1], turns[-1]["ended"]
    told = {key: last[key] for key in ("machine", "versions", "gate") if key in last}
    if "wrong" in last:
        return _entry("wrong", last["wrong"]) | told
    status, reason = results.MEASURED, ""
    if ended.status != "finished":
        status, reason = ended.status, _short_reason(ended)
        if who == QUATRAIN or "rows" not in last:
            return _entry(status, reason) | told
        status = results.UNCHECKED
    rows = [{label: Row(**row) for label, row in turn["rows"].items()} for turn in turns if "rows" in turn]
    return _entry(status, reason) | told | {"quick": quick, "rows": results.figures(rows)}


def _entry(status: str, reason: str = "") -> dict[str, Any]:
    return {"status": status, "reason": reason, "when": datetime.now(UTC).isoformat(timespec="seconds")}


def _short_reason(ended: Ended) -> str:
    return "out of memory" if "out of memory" in ended.reason.lower() else ended.reason


def _short(value: Any) -> str:
    return f"{value['median'] if isinstance(value, dict) else value:.4g}"
