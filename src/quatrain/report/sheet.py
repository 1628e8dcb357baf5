"""A page of results: sections with drawings and tables, and where they come from.

What fills it knows its own figures: a study's tables, an evaluation's tasks, a ranking's systems. What they share is
how they are read, and that is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quatrain.report import html
from quatrain.report.chart import Chart
from quatrain.report.dots import DotPlot

_LONGEST_FIGURE = 24
"""Of a cell that is still a figure and no sentence that begins with one."""


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns. What stands between two pairs of asterisks in a cell is bold."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def numeric(self) -> set[int]:
        """Columns that hold figures, and stand at the right; the first one names its row."""
        columns = range(1, len(self.head))
        return {c for c in columns if any(row[c] for row in self.rows) and all(_figure(row[c]) for row in self.rows)}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table of a study, one task, one ranking."""

    title: str
    paragraphs: Sequence[str] = ()
    drawings: Sequence[Chart | DotPlot] = ()
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()
    """Paragraphs below all that."""

    @property
    def charts(self) -> int:
        """How many charts there are, which stand in pairs; dot plots are as wide as the page."""
        return sum(isinstance(drawing, Chart) for drawing in self.drawings)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A page."""

    kind: str
    """Such as "Quatrain study"."""
    title: str
    lead: str
    paragraphs: Sequence[str] = ()
    """What is to be known before the sections."""
    sections: Sequence[Section]
    facts: Mapping[str, str] = field(default_factory=dict)
    """What holds for all sections: machine, versions, settings."""
    sources: Sequence[str]
    """Files that it is made from."""


def write_sheet(sheet: Sheet, path: Path) -> Path:
    """Write the page, in place of one that is there. Returns its path."""
    return html.write(html.render("sheet.html.jinja", sheet=sheet), path)


def short_path(path: str | Path) -> str:
    """A file with its folder: a page is handed on, and where it lay is nobody's business."""
    return "/".join(Path(path).parts[-2:])


def _figure(text: str) -> bool:
    """Whether a cell holds a number, or nothing."""
    return not text or text == "–" or (len(text) <= _LONGEST_FIGURE and text.lstrip("+−-±<≤≥* ")[:1].isdigit())
