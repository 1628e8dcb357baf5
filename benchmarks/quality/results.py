"""A file for each table, whose rows are cells: their settings, and what was measured.

    {"case", "title", "machine", "versions", "seeds", "settings": what all rows have in common, "rows": […]}

The file is written anew after every cell, beside itself and then moved, so that whoever stops a study loses the cells
in flight and nothing else.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.cell import Cell
from quatrain.errors import ConfigError
from quatrain.files import file_aside

Row = dict[str, Any]


class Book:
    """The tables in a folder, as measured on one kind of device.

    Args:
        folder: of the result files.
        titles: of the tables by name.
        machine: what this process measures on.
        versions: and with.

    Raises:
        ConfigError: a file holds figures of another kind of device.
    """

    def __init__(
        self, folder: Path, titles: Mapping[str, str], machine: Mapping[str, str], versions: Mapping[str, str]
    ):
        self._folder, self._titles = folder, titles
        self._facts = {"machine": dict(machine), "versions": dict(versions)}
        self._rows: dict[str, list[Row]] = {}
        for name in titles:
            path = folder / f"{name}.json"
            known = read(path) if path.exists() else None
            if known and known["machine"]["device"] != machine["device"]:
                raise ConfigError(
                    f"{path} was measured on {known['machine']['device']}, and figures of two devices don't belong in "
                    "one table: name another folder by --results"
                )
            self._rows[name] = known["rows"] if known else []

    def rows(self, table: str) -> Sequence[Row]:
        """All cells of a table so far."""
        return self._rows[table]

    def has(self, cell: Cell) -> bool:
        """Whether a cell with the same settings is there."""
        settings = _plain(cell.settings)
        return any(all(row.get(k) == v for k, v in settings.items()) for row in self._rows[cell.table])

    def add(self, cell: Cell, measured: Mapping[str, Any]) -> None:
        """Puts a cell into its table's file."""
        self._rows[cell.table].append(_plain(cell.settings) | dict(measured))
        self._write(cell.table, list(cell.settings))

    def drop(self, table: str, outdated: Callable[[Row], bool]) -> None:
        """Takes rows out of a table; its file follows with the next cell."""
        self._rows[table] = [row for row in self._rows[table] if not outdated(row)]

    def _write(self, table: str, settings: Sequence[str]) -> None:
        rows = self._rows[table]
        shared = {name: rows[0][name] for name in settings if all(row[name] == rows[0][name] for row in rows)}
        content = {
            "case": table,
            "title": self._titles[table],
            **self._facts,
            "seeds": sorted({row["seed"] for row in rows}),
            "settings": shared,
            "rows": [{k: v for k, v in row.items() if k not in shared} for row in rows],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with file_aside(self._folder / f"{table}.json") as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


def read(path: Path) -> dict[str, Any]:
    """A table's file, every row complete."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content | {"rows": [content["settings"] | row for row in content["rows"]]}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from a file."""
    return json.loads(json.dumps(dict(settings)))
