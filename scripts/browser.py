"""A real browser, told what to do over its DevTools protocol: a page as a person gets it, in any width and at night.

Chromium started with ``--remote-debugging-pipe`` takes commands on file descriptor 3 and answers on 4, JSON texts that
end with a zero byte. That needs no library and no port, and unlike ``--screenshot`` and ``--dump-dom`` it also says
what the page complained of and what it asked the network for.

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 60.0
_QUIET = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars", "--disable-gpu"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--force-color-profile=srgb", "--font-render-hinting=none"),
)


def find_browser() -> str | None:
    """Path of a Chromium: what the variable QUATRAIN_BROWSER names, or one on the path; None without any."""
    return os.environ.get("QUATRAIN_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)


@dataclass
class Page:
    """A page that has loaded, and what was heard meanwhile."""

    browser: "Browser"
    session: str
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console, breaches of the page's own policy among them."""
    requests: list[str] = field(default_factory=list)
    """Addresses of everything that was fetched beside the page."""

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript, which the page's policy doesn't keep out."""
        found = self.browser.call("Runtime.evaluate", self.session, expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        """Move the pointer there, in pixels from the page's upper left."""
        self.browser.call("Input.dispatchMouseEvent", self.session, type="mouseMoved", x=x, y=y)

    def picture(self, top: float = 0, bottom: float | None = None) -> bytes:
        """The page as a PNG, all of it or from here to there in pixels from its top."""
        size = self.browser.call("Page.getLayoutMetrics", self.session)["cssContentSize"]
        height = (size["height"] if bottom is None else bottom) - top
        clip = {"x": 0, "y": top, "width": size["width"], "height": height, "scale": 1}
        options = {"format": "png", "clip": clip, "captureBeyondViewport": True, "optimizeForSpeed": False}
        return base64.b64decode(self.browser.call("Page.captureScreenshot", self.session, **options)["data"])


class Browser:
    """A context manager around one process of Chromium with a profile of its own.

    Args:
        path: of the program.
    """

    def __init__(self, path: str):
        self._path = path
        self._number = 0
        self._heard: dict[str, list[dict[str, Any]]] = {}
        self._rest = b""

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory(prefix="quatrain-browser-", ignore_cleanup_errors=True)
        theirs_to_read, self._write = _high_pipe()
        self._read, theirs_to_write = _high_pipe()
        # Chromium's sandbox refuses to be set up by root; these pages are our own.
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        arguments = [self._path, *_QUIET, *root, f"--user-data-dir={self._profile.name}", "about:blank"]
        silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, theirs_to_read, 3), (os.POSIX_SPAWN_DUP2, theirs_to_write, 4)]
        self._process = os.posix_spawn(self._path, arguments, os.environ, file_actions=[*silent, *pipes])
        os.close(theirs_to_read)
        os.close(theirs_to_write)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._write)
        os.close(self._read)
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        self._profile.cleanup()

    def open(self, file: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> Page:
        """Load a file and wait until it has been laid out.

        Args:
            width, height: of the window, in pixels of the page. dark: the reader's mode.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", page.session)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", page.session, **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", page.session, features=[scheme])
        address = file.resolve().as_uri()
        self.call("Page.navigate", page.session, url=address)
        self._wait_for("Page.loadEventFired", page.session)
        # A question is answered after what was drawn before it has said what it had to say.
        page.ask("document.documentElement.offsetHeight")
        for event in self._heard.pop(page.session, []):
            _note(page, event, address)
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command's result. Raises RuntimeError if the browser refuses it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _wait_for(self, method: str, session: str) -> None:
        while not any(event["method"] == method for event in self._heard.get(session, [])):
            self._next()

    def _next(self) -> dict[str, Any]:
        """The next message; events are also kept, by page."""
        until = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            new = os.read(self._read, 1 << 16) if ready else b""
            if not new:
                raise RuntimeError(f"{self._path} has stopped answering")
            self._rest += new
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if "method" in message and "sessionId" in message:
            self._heard.setdefault(message["sessionId"], []).append(message)
        return message


def _high_pipe() -> tuple[int, int]:
    """A pipe's ends to read and to write, neither of them a number that the program's own ends will have."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]


def _note(page: Page, event: dict[str, Any], address: str) -> None:
    """Put what a person would want to know of an event into the page's lists."""
    what = event["params"]
    if event["method"] == "Runtime.exceptionThrown":
        page.complaints.append(what["exceptionDetails"]["text"])
    elif event["method"] == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
        page.complaints.append(str([argument.get("value") for argument in what["args"]]))
    elif event["method"] == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
        page.complaints.append(what["entry"]["text"])
    elif event["method"] == "Network.requestWillBeSent" and what["request"]["url"] != address:
        page.requests.append(what["request"]["url"])
