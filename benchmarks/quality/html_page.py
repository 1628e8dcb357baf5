"""`docs/evidence.html`: the words and tables of `docs/evidence.md` with pictures, in one file that needs no network."""

import json
from pathlib import Path
from typing import Any

from benchmarks import oasst_elo
from benchmarks.quality.drawings import drawings_of, elo_drawing
from benchmarks.quality.page import PAGE, can_be_made, found_in
from benchmarks.quality.words import Words, introduction_of, sections_of, table_of
from quatrain.report.sheet import Section, Sheet, short_path, write_sheet

HTML = PAGE.with_suffix(".html")
ELO = oasst_elo.RESULT.stem


def write_html(folder: Path, words: Path = PAGE, page: Path = HTML) -> Path:
    """Write the page from the result files in `folder` and the words of `words`, whose tables are up to date."""
    found = found_in(folder)
    text = words.read_text(encoding="utf-8")
    lead, *paragraphs = introduction_of(text)
    return write_sheet(
        Sheet(
            kind="Quatrain study",
            title="QLoRA's claims, measured",
            lead=lead,
            paragraphs=paragraphs,
            sections=[*(_section(part, found) for part in sections_of(text)), *_elo(folder)],
            facts=_facts(found),
            sources=[
                short_path(folder / f"{name}.json") for name in (*found, ELO) if (folder / f"{name}.json").exists()
            ],
        ),
        page,
    )


def _section(words: Words, found: dict[str, Any]) -> Section:
    there = [name for name in words.marked if can_be_made(name, found)]
    drawings = [drawing for name in there for drawing in drawings_of(name, found)]
    return Section(
        title=words.title,
        paragraphs=words.paragraphs,
        drawings=drawings,
        tables=words.tables,
        remarks=words.remarks,
    )


def _elo(folder: Path) -> list[Section]:
    """The ranking of the paper's systems, if it is there."""
    path = folder / f"{ELO}.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text(encoding="utf-8"))
    lines, _, facts = oasst_elo.table(result).partition("\n\n")
    drawing = elo_drawing(result["rows"])
    return [
        Section(
            title=result["title"],
            drawings=[drawing] if drawing else [],
            tables=[table_of(lines.splitlines())],
            remarks=[facts],
        )
    ]


def _facts(found: dict[str, Any]) -> dict[str, str]:
    """Machines and versions of all tables."""
    facts: dict[str, list[str]] = {}
    for result in found.values():
        for name, value in (result["machine"] | result["versions"]).items():
            facts.setdefault(name, []).append(value)
    return {name: " / ".join(dict.fromkeys(values)) for name, values in facts.items()}
