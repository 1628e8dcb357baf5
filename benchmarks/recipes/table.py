"""The tables of `examples/recipes/README.md`, from the result file and from nothing else."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import line
from benchmarks.recipes.planning import FOLDER
from quatrain.memory.amounts import gigabytes

PAGE = FOLDER / "README.md"
_BLOCK = re.compile(r"(<!-- planned: (\w+)[^>]*-->\n).*?(<!-- /planned -->)", re.DOTALL)
_GUANACO = "guanaco"
Row = Mapping[str, Any]


def write_tables(result: Mapping[str, Any], page: Path) -> None:
    """Puts the tables between the marks in `page`: one of the paper's recipes, one of the others."""
    paper = [row for row in result["rows"] if row["recipe"].startswith(_GUANACO)]
    tables = {"guanaco": paper, "defaults": [row for row in result["rows"] if row not in paper]}
    text = page.read_text(encoding="utf-8")
    filled = _BLOCK.sub(lambda marks: marks[1] + "\n".join(_table(tables[marks[2]])) + "\n" + marks[3], text)
    page.write_text(filled, encoding="utf-8")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    places = list(dict.fromkeys(map(_place, rows)))
    yield line(["recipe", *places])
    yield line(["---"] * (1 + len(places)))
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        cells = {_place(row): _cell(row) for row in rows if row["recipe"] == recipe}
        yield line([f"[{recipe}]({recipe}.yaml)", *(cells[place] for place in places)])


def _place(row: Row) -> str:
    return f"{row['memory'].removesuffix('GB')} GB of {row['gpu']}" if row["memory"] else row["gpu"]


def _cell(row: Row) -> str:
    """Such as "7.9 GB, 3.2 h", and a mark where weights come from the host or the disk."""
    if "refused" in row:
        return "–"
    mark = " ⇣" if row["disk_blocks"] else " ⇄" if row["streamed_blocks"] else ""
    return f"{gigabytes(row['needed_bytes'])}, {_time(row['hours'])}{mark}"


def _time(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min" if hours >= 1 / 60 else "< 1 min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"
