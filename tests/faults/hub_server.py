"""A hub on this machine with one model, `org/name`, that can be told to misbehave."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import huggingface_hub
import pytest

NAME = "org/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Answer = Callable[["Request"], bool]
"""Answers a request in place of the hub; False leaves it to the hub."""


@dataclass
class Hub:
    """What is served, and what was asked for."""

    files: dict[str, bytes]
    misbehave: Answer = lambda request: False
    address: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and authorization of every request."""


class Request(BaseHTTPRequestHandler):
    """One request to the hub."""

    hub: Hub

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, path, self.headers.get("Authorization", "")))
        if self.hub.misbehave(self):
            return
        if f"/api/models/{NAME}" in path:
            self.send(200, json.dumps(self._tree() if "/tree/" in path else self._info()).encode())
        else:
            self._send_file(path.rpartition(f"/resolve/{COMMIT}/")[2])

    do_HEAD = do_GET

    def send(self, code: int, content: bytes = b"", length: int | None = None, **headers: str) -> None:
        """A whole answer; underscores in headers' names are hyphens. `length` lies about the content's."""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content) if length is None else length), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _info(self) -> dict:
        return {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.hub.files]}

    def _tree(self) -> list[dict]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
            for name, content in self.hub.files.items()
        ]

    def _send_file(self, name: str) -> None:
        content = self.hub.files.get(name)
        if content is None:
            self.send(404, X_Error_Code="EntryNotFound")
        else:
            self.send(200, content, X_Repo_Commit=COMMIT, ETag=f'"{_etag(content)}"')

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is read."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(folder: Path, cache: Path, patch: pytest.MonkeyPatch, credentials: str = "") -> Iterator[Hub]:
    """A hub with a folder's files, which `huggingface_hub` asks; its patience is short, its cache empty."""
    hub = Hub({file.name: file.read_bytes() for file in sorted(folder.iterdir())})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Request,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    constants = huggingface_hub.constants
    address = hub.address = f"http://{credentials}127.0.0.1:{server.server_port}"
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    patch.setattr("quatrain.models.hub.SILENCE_S", 0.3)
    # Pauses between attempts, of both libraries.
    patch.setattr("quatrain.models.hub.time", SimpleNamespace(sleep=lambda seconds: None))
    for module in ("utils._http", "file_download"):
        patch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
