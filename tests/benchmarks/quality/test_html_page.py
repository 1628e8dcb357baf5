"""The study's page: the words and tables of the docs, with pictures of everything that was measured."""

from pathlib import Path

import pytest

from benchmarks.quality.cell import QUICK, Plan, Where
from benchmarks.quality.html_page import HTML, write_html
from benchmarks.quality.page import PAGE, write_page
from benchmarks.quality.results import Book
from benchmarks.quality.tables import TABLES
from benchmarks.quality.tables.contests import EVERYONE, contest
from benchmarks.quality.tasks import TASKS
from benchmarks.quality.words import introduction_of, sections_of
from benchmarks.results import RESULTS
from tests.benchmarks.quality.test_program import invented
from tests.report.pages import Page

WORDS = """# Title

The lead, with `code`.

More of it.

## A claim

Some **strong** words
and [a link](somewhere.md).

<!-- measured: parity, made by a program -->
| a | b \\| c |
| --- | --- |
| 1 | 2 |

| nothing | yet |
| --- | --- |

Where it comes from.
<!-- /measured -->
"""


def test_words_become_plain_and_tables_stay_tables():
    (found,) = sections_of(WORDS)
    assert introduction_of(WORDS) == ["The lead, with code.", "More of it."]
    assert found.title == "A claim" and found.marked == ["parity"]
    assert found.paragraphs == ["Some strong words and a link."]
    assert found.remarks == ["Where it comes from."]
    (table,) = found.tables
    assert table.head == ["a", "b | c"] and table.rows == [["1", "2"]]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with every table of a quick study and the committed ranking."""
    import torch

    rates = {contest(task, how): 1e-3 for task in TASKS for how in EVERYONE.values()}
    titles = {name: module.TITLE for name, module in TABLES.items()}
    book = Book(tmp_path, titles, {"device": "Some card"}, {"torch": "2.0"})
    where = Where(model="base", data=dict.fromkeys(TASKS, ""), device=torch.device("cpu"))
    for module in TABLES.values():
        for cell in module.cells(Plan(QUICK, rates)):
            book.add(cell, invented(cell, where)[0])
    (tmp_path / "oasst_elo.json").write_bytes((RESULTS / "quality" / "oasst_elo.json").read_bytes())
    return tmp_path


def test_everything_that_was_measured_is_drawn_and_said(results: Path, tmp_path: Path):
    words = tmp_path / "evidence.md"
    words.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_page(results, words)
    page = Page(write_html(results, words, tmp_path / "evidence.html").read_text(encoding="utf-8"))
    titles = {value for value in page.attributes("id") if value.endswith("-title")}
    for start in ("data-types", "parity-gsm8k", "apart-oasst", "rank", "optimizer", "methods", "oasst-elo"):
        assert any(title.startswith(start) for title in titles), start
    shown = page.shown()
    for expected in ("QLoRA, NF4", "Some card", "Guanaco 65B", "1,008, paper 1,008", "learning_rates.json"):
        assert expected in shown


def test_the_committed_pages_are_made_from_the_committed_results(tmp_path: Path):
    folder, words, page = RESULTS / "quality", tmp_path / PAGE.name, tmp_path / HTML.name
    words.write_bytes(PAGE.read_bytes())
    write_page(folder, words)
    again = "run `python -m benchmarks.quality --table`"
    assert words.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), again
    write_html(folder, words, page)
    assert page.read_text(encoding="utf-8") == HTML.read_text(encoding="utf-8"), again


def test_without_results_the_page_has_words_only(tmp_path: Path):
    words = tmp_path / "evidence.md"
    words.write_text(WORDS, encoding="utf-8")
    page = Page(write_html(tmp_path / "none", words, tmp_path / "evidence.html").read_text(encoding="utf-8"))
    assert "Some strong words" in page.shown() and "figure" not in [tag for tag, _ in page.tags]
