"""A page of docs as sections of plain paragraphs and tables, so that the HTML page says what the docs say.

Only the Markdown that these pages are written in is understood: second-level headings, paragraphs, tables, and within a
line bold, code and links, of which the text stays.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from quatrain.report.sheet import Table

_MARK = re.compile(r"<!-- measured: (\w+)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")

_HEAD = 2
"""Lines of a table without rows, as one has whose cells aren't measured yet."""


class Words(NamedTuple):
    """What stands under a heading."""

    title: str
    paragraphs: list[str]
    """Before the first table."""
    tables: list[Table]
    remarks: list[str]
    """After it."""
    marked: list[str]
    """Names of the tables that the program puts there."""


def introduction_of(text: str) -> list[str]:
    """The paragraphs between the page's title and its first section."""
    return [_plain(block) for block in text.partition("\n## ")[0].split("\n\n")[1:]]


def sections_of(text: str) -> Iterator[Words]:
    """The page's sections in order."""
    for part in text.split("\n## ")[1:]:
        title, _, rest = part.partition("\n")
        found = Words(_plain(title), [], [], [], _MARK.findall(rest))
        for block in re.split(r"\n\s*\n", re.sub(r"<!--.*?-->", "\n", rest, flags=re.DOTALL)):
            lines = block.strip().splitlines()
            if lines and all(line.startswith("|") for line in lines):
                if len(lines) > _HEAD:
                    found.tables.append(table_of(lines))
            elif lines:
                texts = found.remarks if found.tables else found.paragraphs
                texts.append(_plain(" ".join(line.strip().removeprefix("- ") for line in lines)))
        yield found


def table_of(lines: list[str]) -> Table:
    """A table's lines: its head, a rule, its rows."""
    rows = [[_in_a_line(cell.replace("\\|", "|")) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return Table(rows[0], rows[2:])


def _plain(text: str) -> str:
    return _in_a_line(text).replace("**", "")


def _in_a_line(text: str) -> str:
    """Without links and code; a table's cells may be bold, or have parts that are."""
    return _LINK.sub(r"\1", " ".join(text.split())).replace("`", "")
