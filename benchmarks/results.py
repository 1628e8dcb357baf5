"""Result files: one JSON file a case, in which each contender's entry is replaced when it is measured anew."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Figures, Row
from benchmarks.timing import summary

RESULTS = Path(__file__).parent / "results"
MEASURED, UNCHECKED = "measured", "unchecked"
CEILINGS = "ceilings"


def figures(rounds: Sequence[Mapping[str, Row]]) -> Figures:
    """The metrics of each row over all rounds: times, rates at the median time, memory at the worst round."""
    return {label: _merged([rows[label] for rows in rounds]) for label in rounds[0]}


def _merged(rows: Sequence[Row]) -> dict[str, Any]:
    first = rows[0]
    found: dict[str, Any] = dict(first.values)
    samples = [sample for row in rows for sample in row.samples_ms]
    if samples:
        found["ms"] = summary(samples)
        found["samples_ms"] = [float(f"{sample:.6g}") for sample in samples]
        seconds = found["ms"]["median"] / 1e3
        if first.tokens is not None:
            found["tokens_per_second"] = round(first.tokens / seconds, 1)
        if first.bytes is not None:
            found["gigabytes_per_second"] = round(first.bytes / seconds / 1e9, 2)
            found["terabytes_per_second"] = round(first.bytes / seconds / 1e12, 4)
        if first.flops is not None:
            found["teraflops"] = round(first.flops / seconds / 1e12, 2)
    for metric in ("allocated_gib", "reserved_gib"):
        values = [value for row in rows if (value := getattr(row, metric)) is not None]
        if values:
            found[metric] = round(max(values), 3)
    return found


def record(folder: Path, case: Case, contender: str, entry: Mapping[str, Any]) -> Path:
    """Puts a contender's entry into the case's file.

    A contender that was only skipped, its library missing here, doesn't displace what another machine measured.
    """
    path = folder / f"{case.name}.json"
    contenders = read(path)["contenders"] if path.exists() else {}
    if entry["status"] != "skipped" or contender not in contenders:
        contenders[contender] = entry
    write(folder, case, contenders)
    return path


def write(folder: Path, case: Case, contenders: Mapping[str, Any]) -> None:
    """The case's file: what was asked, the floor if the ceilings are known, and everyone's entry in their order."""
    known = {who.name: contenders[who.name] for who in case.contenders if who.name in contenders}
    result = {
        "case": case.name,
        "title": case.title or case.kind.title,
        "options": case.options,
        "target": case.target,
        "floor": _floor(case, folder),
        "contenders": known,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case.name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _floor(case: Case, folder: Path) -> Figures | None:
    """The case's floor on the machine whose ceilings lie in `folder`; None where they weren't measured."""
    path = folder / f"{CEILINGS}.json"
    if case.floor is None or not path.exists():
        return None
    measured = [entry["rows"] for entry in read(path)["contenders"].values() if entry["status"] == MEASURED]
    try:
        floor = case.floor(measured[0])
    except LookupError:
        return None
    return {label: {metric: float(f"{value:.5g}") for metric, value in row.items()} for label, row in floor.items()}
