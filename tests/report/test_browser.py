"""The pages in a real browser: laid out without overflow, silent, offline, their drawings there and answering."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from quatrain.report import write_results
from scripts.browser import Browser, find_browser
from tests.report.test_results import evaluation
from tests.report.test_run_page import EVIL, page_of, whole_run

pytestmark = pytest.mark.skipif(find_browser() is None, reason="needs Chromium, or its path in QUATRAIN_BROWSER")
WIDTHS = (400, 1200)
LONG_WORD = "unbreakable" * 40


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(find_browser() or "") as browser:
        yield browser


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_is_laid_out_and_asks_nobody(browser: Browser, tmp_path: Path, width: int, dark: bool):
    page_of(tmp_path, whole_run(EVIL + LONG_WORD), {EVIL: LONG_WORD})
    page = browser.open(tmp_path / "report.html", width=width, dark=dark)
    assert page.complaints == [] and page.requests == []
    assert page.ask("document.documentElement.scrollWidth") <= width
    lines = "[...document.querySelectorAll('.chart svg .line')].map((line) => line.getTotalLength())"
    assert len(page.ask(lines)) >= 8 and min(page.ask(lines)) > 100
    assert page.ask("document.querySelectorAll('.map rect').length") == 24
    widths = "[...document.querySelectorAll('.bar i')].map((part) => part.getBoundingClientRect().width)"
    assert len(page.ask(widths)) == 5 and min(page.ask(widths)) > 10
    paper = page.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 300) is dark


def test_a_drawing_tells_the_value_under_the_pointer(browser: Browser, tmp_path: Path):
    page_of(tmp_path, whole_run("plain"))
    page = browser.open(tmp_path / "report.html", height=4000)
    for drawing, x, expected in (("[data-chart]", 0.999, "step 20"), ("[data-map]", 0.5, "block 6, q_proj7")):
        box = page.ask(f"JSON.parse(JSON.stringify(document.querySelector('{drawing}').getBoundingClientRect()))")
        page.point_at(box["x"] + x * box["width"], box["y"] + 0.1 * box["height"])
        assert page.ask(f"document.querySelector('{drawing} .reading').textContent").startswith(expected)


def test_an_empty_run_is_a_page_too(browser: Browser, tmp_path: Path):
    page_of(tmp_path, [])
    page = browser.open(tmp_path / "report.html", width=400)
    assert page.complaints == [] and page.ask("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_results_are_laid_out_and_ask_nobody(browser: Browser, tmp_path: Path, width: int, dark: bool):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(evaluation("org/" + LONG_WORD, text=EVIL + LONG_WORD)))
    page = browser.open(write_results([path]), width=width, dark=dark)
    assert page.complaints == [] and page.requests == []
    assert page.ask("document.documentElement.scrollWidth") <= width
    drawings = "[...document.querySelectorAll('.dot-rows svg')].map((line) => line.getBoundingClientRect())"
    assert page.ask(f"{drawings}.length") == 6
    assert page.ask(f"Math.min(...{drawings}.map((box) => box.width))") > 80
    ticks = "[...document.querySelectorAll('.dot-axis .tick')].map((tick) => tick.getBoundingClientRect().bottom)"
    figures = "[...document.querySelectorAll('figure')].map((figure) => figure.getBoundingClientRect().bottom)"
    assert page.ask(f"Math.max(...{ticks}) < Math.max(...{figures})")
