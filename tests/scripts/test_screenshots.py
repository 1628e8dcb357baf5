"""Pictures of pages: four of each, and a page's troubles told."""

import sys
from pathlib import Path

import pytest

from scripts import screenshots
from scripts.browser import Browser, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="needs Chromium, or its path in QUATRAIN_BROWSER")
PNG = b"\x89PNG"


def test_every_size_and_mode_is_taken_and_troubles_are_told(tmp_path: Path):
    file = tmp_path / "page.html"
    file.write_text(
        "<meta name=viewport content='width=device-width'><div style='width:700px'>wide</div>"
        "<img src='nowhere.png'><script>console.error('oh')</script>"
    )
    with Browser(find_browser() or "") as browser:
        troubles = screenshots.photograph(browser, file, tmp_path / "out")
    pictures = sorted((tmp_path / "out").iterdir())
    assert len(pictures) == 4 and all(picture.read_bytes().startswith(PNG) for picture in pictures)
    assert {t for t in troubles if "phone, dark" in t} >= {f"{file}, phone, dark: ['oh']"}
    assert any("asked for file:" in t and t.endswith("nowhere.png") for t in troubles)
    assert any("phone" in t and "pixels wide" in t for t in troubles)
    assert not any("wide, light" in t and "pixels wide" in t for t in troubles)


def test_without_a_browser_it_says_how_to_name_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["screenshots.py", "page.html"])
    monkeypatch.setattr(screenshots, "find_browser", lambda: None)
    with pytest.raises(SystemExit, match="2"):
        screenshots.main()
    assert "QUATRAIN_BROWSER" in capsys.readouterr().err
