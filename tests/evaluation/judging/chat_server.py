"""A chat endpoint on this machine that can be told how to judge, and how to misbehave."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-planted-0123456789"


@dataclass
class ChatServer:
    """What is said to a prompt, and what was asked for."""

    say: Callable[[str], str] = lambda prompt: "Both are fine.\n\nVerdict: C"
    misbehave: Callable[["Request", int], bool] = lambda request, number: False
    """Answers the request of this number in place of the server; False leaves it to the server."""
    address: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    """Most requests at once."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def prompts(self) -> list[str]:
        """In the order of their arrival, those that were misbehaved at included."""
        return [body["messages"][0]["content"] for body in self.bodies]


class Request(BaseHTTPRequestHandler):
    """One request to the endpoint."""

    server_state: ChatServer
    body: dict[str, Any]

    def do_POST(self) -> None:
        state = self.server_state
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            number = len(state.bodies)
            state.bodies.append(self.body)
            state.keys.append(self.headers.get("Authorization", ""))
            state.busy += 1
            state.busiest = max(state.busiest, state.busy)
        try:
            if not state.misbehave(self, number):
                self.complete(state.say(self.body["messages"][0]["content"]))
        finally:
            with state.lock:
                state.busy -= 1

    def complete(self, text: str | None, **more: Any) -> None:
        """A chat completion with this text."""
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **more}}
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        self.send(200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    def send(self, code: int, body: Any, **headers: str) -> None:
        """JSON, or a text as it is; underscores in headers' names are hyphens."""
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        kind = "text/html" if isinstance(body, str) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def fail(self, code: int, message: str, kind: str | None = None, **headers: str) -> bool:
        """An error as OpenAI words them."""
        self.send(code, {"error": {"message": message, "type": "error", "param": None, "code": kind}}, **headers)
        return True

    def hang(self) -> bool:
        """No answer until the server is closed."""
        self.server_state.closing.wait()
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is read."""


@contextmanager
def serving() -> Iterator[ChatServer]:
    """A server on a free port."""
    state = ChatServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Request,), {"server_state": state}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
