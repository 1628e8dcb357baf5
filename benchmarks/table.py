"""`docs/benchmarks.md`, made from the result files and from nothing else."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import cells, results
from benchmarks.case import QUATRAIN, Case, Contender, Kind
from benchmarks.registry import CASES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

Made by `python -m benchmarks --table` from the files in `benchmarks/results/`; `python -m benchmarks` measures them
anew. A case measures Quatrain and its peers one after the other on one machine, each in a process of its own. Before a
figure counts, a contender's results are compared with a float32 reference; the errors stand in the files. ✓ and ✗ say
whether Quatrain reached the target. The floor is what the operations and bytes that can't be left out take at the
rates measured under *Ceilings* (`benchmarks/floor.py` has the arithmetic); – stands for what wasn't measured.
"""


def write_table(folder: Path, page: Path = PAGE) -> None:
    """Renders every result file in `folder`, their floors first brought up to date with the ceilings that lie there."""
    found: dict[str, Any] = {}
    for case in CASES.values():
        path = folder / f"{case.name}.json"
        if path.exists():
            results.write(folder, case, results.read(path)["contenders"])
            found[case.name] = results.read(path)
    parts = [_HEAD]
    for kind, cases in groupby((CASES[name] for name in found), key=lambda case: case.kind):
        parts.append(_section(kind, list(cases), found))
    page.write_text("\n".join(parts), encoding="utf-8")


def _section(kind: Kind, cases: Sequence[Case], found: Mapping[str, Any]) -> str:
    """Title, note, table, what went wrong, and where the figures come from."""
    columns = _columns(cases)
    head = ["case", "target", *(who.title for who in columns), "floor"]
    rows = [row for case in cases for row in _rows(case, found[case.name], columns)]
    unused = {"target": not any(case.target for case in cases), "floor": not any(case.floor for case in cases)}
    kept = [number for number, name in enumerate(head) if not unused.get(name)]
    lines = [cells.line([row[number] for number in kept]) for row in (head, ["---"] * len(head), *rows)]
    remarks = [kind.remark(case, found[case.name]["contenders"]) for case in cases] if kind.remark else []
    troubles = [trouble for case in cases for trouble in _troubles(case, found[case.name])]
    paragraphs = [f"## {kind.title}", kind.note, "\n".join(lines), *remarks, "\n".join(troubles)]
    paragraphs.append(_origin(cases, found))
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _columns(cases: Sequence[Case]) -> list[Contender]:
    """Everyone who takes part, Quatrain last."""
    everyone = dict.fromkeys(who for case in cases for who in case.contenders)
    return sorted(everyone, key=lambda who: who == QUATRAIN)


def _rows(case: Case, result: Mapping[str, Any], columns: Sequence[Contender]) -> list[list[str]]:
    entries = result["contenders"]
    measured = [entry["rows"] for entry in entries.values() if "rows" in entry]
    labels = list(dict.fromkeys(label for rows in measured for label, row in rows.items() if _shown(case, row)))
    if not measured:
        labels = list(case.target) or [""]
    lines = []
    for label in labels:
        name = ", ".join(filter(None, [case.title, label if len(labels) > 1 or not case.title else ""]))
        figures = [_cell(case, entries.get(who.name), who, label) for who in columns]
        floor = cells.figures((result["floor"] or {}).get(label, {}), case.kind.shows) or "–"
        lines.append([name, cells.target(case.target.get(label, {})), *figures, floor])
    return lines


def _shown(case: Case, row: Mapping[str, Any]) -> bool:
    return any(metric in row for metric in case.kind.shows)


def _cell(case: Case, entry: Mapping[str, Any] | None, who: Contender, label: str) -> str:
    if who not in case.contenders:
        return ""
    if entry is None:
        return "–"
    if "rows" not in entry:
        return cells.state(entry)
    row = entry["rows"].get(label)
    if row is None:
        return ""
    text = cells.figures(row, case.kind.shows)
    if who == QUATRAIN and (bounds := case.target.get(label)):
        text += " ✓" if cells.reached(row, bounds) else " ✗"
    unchecked = " (unchecked)" if entry["status"] == results.UNCHECKED else ""
    return text + unchecked + (" (quick)" if entry["quick"] else "")


def _troubles(case: Case, result: Mapping[str, Any]) -> list[str]:
    """A line for whoever has no figures, or unchecked ones, with the reason."""
    titles = {who.name: who.title for who in case.contenders}
    name = case.title or case.kind.title
    return [
        f"- {name}, {titles[who]}: {entry['status']}, {entry['reason']}."
        for who, entry in result["contenders"].items()
        if entry["status"] != results.MEASURED
    ]


def _origin(cases: Sequence[Case], found: Mapping[str, Any]) -> str:
    """Machines, dates, versions and files; who was measured on another machine has a line of their own."""
    machines: dict[str, dict[str, dict[str, Any]]] = {}
    for case in cases:
        for who in case.contenders:
            entry = found[case.name]["contenders"].get(who.name, {})
            if "machine" in entry:
                facts = ", ".join(f"{key} {value}" for key, value in entry["machine"].items())
                group = machines.setdefault(facts, {"who": {}, "days": {}, "versions": {}})
                group["who"][who.title] = None
                group["days"][entry["when"][:10]] = None
                group["versions"] |= {f"{name} {version}": None for name, version in entry["versions"].items()}
    lines = [
        f"Measured on: {facts}; {', '.join(group['who'])}; {', '.join(group['days'])}; {', '.join(group['versions'])}."
        for facts, group in machines.items()
    ]
    files = ", ".join(f"`{case.name}.json`" for case in cases)
    return "\n\n".join([*lines, f"Files in `benchmarks/results/`: {files}."])
