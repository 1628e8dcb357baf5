"""`docs/evidence.md`: its tables, made from the result files and from nothing else; the words between are written."""

import re
from pathlib import Path
from typing import Any

from benchmarks.quality.results import read
from benchmarks.quality.tables import NEEDS, TABLES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evidence.md"
_BLOCK = re.compile(r"(<!-- measured: (\w+)[^>]*-->\n).*?(<!-- /measured -->)", re.DOTALL)


def write_page(folder: Path, page: Path = PAGE) -> None:
    """Puts each table between its marks in `page`."""
    found = found_in(folder)
    text = page.read_text(encoding="utf-8")
    page.write_text(
        _BLOCK.sub(lambda marks: f"{marks[1]}{_table(marks[2], found)}\n{marks[3]}", text), encoding="utf-8"
    )


def found_in(folder: Path) -> dict[str, Any]:
    """The result files of the tables that are there, by name."""
    return {name: read(path) for name in TABLES if (path := folder / f"{name}.json").exists()}


def can_be_made(name: str, found: dict[str, Any]) -> bool:
    """Whether a table and those that it is made from were measured."""
    return all(needed in found for needed in (name, *NEEDS.get(name, ())))


def _table(name: str, found: dict[str, Any]) -> str:
    if not can_be_made(name, found):
        return "Not measured yet."
    return f"{TABLES[name].markdown(found)}\n\n{_origin(name, found[name])}"


def _origin(name: str, result: dict[str, Any]) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in (result["machine"] | result["versions"]).items())
    seeds = ", ".join(map(str, result["seeds"]))
    return f"Seeds {seeds}; {facts}; `benchmarks/results/quality/{name}.json`."
