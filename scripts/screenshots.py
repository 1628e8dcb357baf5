"""Pictures of pages as a browser shows them: wide and on a phone, by day and at night.

    python scripts/screenshots.py runs/support_json/report.html   all of it, four times, to build/screenshots
    python scripts/screenshots.py --docs runs/support_json        the docs' pictures: a run's page and the study's

Needs Chromium: what the variable QUATRAIN_BROWSER names, or one on the path. A page that overflows its window,
complains in the console or asks the network for anything is told, and the exit status is 1. --docs also needs Pillow.
"""

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.browser import Browser, Page, find_browser

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
STUDY = ROOT / "docs" / "evidence.html"
WIDTHS = {"wide": 1120, "phone": 400}
MODES = {"light": False, "dark": True}
DOCS_WIDTH, COLOURS = 1000, 256
"""Of pictures in the docs. A palette makes them a third as large, and nobody sees it."""
RUN_SHOWN = ("header", "article")
STUDY_SHOWN = ("#section-2", "section[aria-labelledby=section-2] .charts")
"""What these pictures begin and end with: the first elements that are this."""
_MARGIN = 16


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    browser_path = find_browser()
    if browser_path is None:
        parser.error("no Chromium was found; name one by QUATRAIN_BROWSER")
    if not arguments.pages and arguments.docs is None:
        parser.error("name a page, or a run for --docs")
    with Browser(browser_path) as browser:
        troubles = [t for page in arguments.pages for t in photograph(browser, page, arguments.out)]
        if arguments.docs is not None:
            illustrate(browser, arguments.docs / "report.html", PICTURES / "run", *RUN_SHOWN)
            if STUDY.exists():
                illustrate(browser, STUDY, PICTURES / "study", *STUDY_SHOWN)
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


def photograph(browser: Browser, file: Path, out: Path) -> list[str]:
    """Write all pictures of a page, and return what is wrong with it."""
    out.mkdir(parents=True, exist_ok=True)
    troubles = []
    for size, width in WIDTHS.items():
        for mode, dark in MODES.items():
            page = browser.open(file, width=width, dark=dark)
            picture = out / f"{file.parent.name}-{file.stem}-{size}-{mode}.png"
            picture.write_bytes(page.picture())
            print(picture)
            troubles += [f"{file}, {size}, {mode}: {trouble}" for trouble in troubles_of(page, width)]
    return troubles


def troubles_of(page: Page, width: int) -> list[str]:
    """What a person would notice, or never should."""
    found = [*page.complaints, *(f"asked for {address}" for address in page.requests)]
    taken = page.ask("document.documentElement.scrollWidth")
    return [*found, f"is {taken} pixels wide"] if taken > width else found


def illustrate(browser: Browser, file: Path, picture: Path, first: str, last: str) -> None:
    """Write what lies between two elements of a page, light and dark."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for mode, dark in MODES.items():
        page = browser.open(file, width=DOCS_WIDTH, dark=dark)
        top = page.ask(f"document.querySelector('{first}').getBoundingClientRect().top") - _MARGIN
        bottom = page.ask(f"document.querySelector('{last}').getBoundingClientRect().bottom") + _MARGIN
        path = picture.with_name(f"{picture.name}-{mode}.png")
        path.write_bytes(with_palette(page.picture(top, bottom)))
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def with_palette(picture: bytes) -> bytes:
    """The same PNG with few colours."""
    from PIL import Image

    written = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
    return written.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="HTML files")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "screenshots", metavar="FOLDER", help="%(default)s"
    )
    parser.add_argument("--docs", type=Path, metavar="RUN", help="make the pictures in docs/pictures, of this run")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
