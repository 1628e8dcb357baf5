"""Writes the table of faults for the docs: `python -m tests.faults.page`. A test compares it with the matrix."""

from pathlib import Path
from types import ModuleType

from tests.faults.case import Case
from tests.faults.matrix import AREAS, MATRIX

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"

HEAD = """\
# Faults, and what happens

Written by `python -m tests.faults.page` from the cases in `tests/faults/areas/`; each is made anew and tried by
`pytest tests/faults/test_matrix.py`. A refused fault gives one line and an exit code (1, or 2 for what is set wrongly),
takes no memory on the word of a file, and leaves nothing behind. The words are part of that line.
"""


def page() -> str:
    """The page's text."""
    return "\n".join([HEAD, *map(_section, AREAS)])


def _section(area: ModuleType) -> str:
    title = str(area.__doc__).partition(".")[0]
    cases = [case for case in MATRIX if case.area == area.__name__.rpartition(".")[2]]
    rows = [f"| {_cell(case.fault)} | {_cell(_outcome(case))} | `test_fault[{case.name}]` |" for case in cases]
    return "\n".join([f"## {title}\n", "| fault | what happens | test |", "|---|---|---|", *rows, ""])


def _outcome(case: Case) -> str:
    return case.says if case.error is None else f"refused with {case.exit_code}: “{case.says}”"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
