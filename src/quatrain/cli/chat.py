"""`quatrain chat`."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from quatrain.cli.arguments import (
    Adapter,
    Device,
    Force,
    MaxNewTokens,
    Named,
    Quantization,
    System,
    Temperature,
    TrustRemoteCode,
    utf8_input,
)

Reply = Callable[[list[dict], Callable[[str], None]], object]
"""Given a history, tells the model's next turn piece by piece."""

_HELP = "/reset starts over, /system TEXT sets the system message, /exit leaves"


def chat(
    named: Named,
    adapter: Adapter = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    quantization: Quantization = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
) -> None:
    """Talk to a base or to what a run has made of it.

    Each message is rendered by the same template as in training. `/reset` starts over, `/system TEXT` sets the system
    message, `/exit` leaves. Ctrl-C stops a reply, and at the prompt it leaves. Lines from a pipe are answered one after
    the other.
    """
    from rich.console import Console

    from quatrain.evaluation import stream_reply
    from quatrain.training.opening import open_model

    console = Console(highlight=False)
    model, tokenizer = open_model(
        named,
        adapter=adapter,
        quantization=quantization,
        device=device,
        force=force,
        trust_remote_code=trust_remote_code,
    )

    reply = partial(stream_reply, model, tokenizer, max_new_tokens=max_new_tokens, temperature=temperature)
    _converse(console, reply, system)


def _converse(console: Any, reply: Reply, system: str | None) -> None:
    """Answer line after line, until they end or one says so."""
    history = _opening(system)
    if sys.stdin.isatty():
        console.print(_HELP, style="dim")
    while (line := _read(console)) is not None:
        command, _, rest = line.partition(" ")
        if command == "/exit":
            return
        if command in ("/reset", "/system"):
            history = _opening(rest if command == "/system" else system)
        elif line.strip():
            history.append({"role": "user", "content": line})
            history.append({"role": "assistant", "content": _say(console, reply, history)})


def _say(console: Any, reply: Reply, history: list[dict]) -> str:
    """Print the reply as it comes. What was said before a Ctrl-C counts as said."""
    said: list[str] = []

    def on_text(piece: str) -> None:
        said.append(piece)
        console.print(piece, end="", markup=False, soft_wrap=True)

    try:
        reply(history, on_text)
    except KeyboardInterrupt:
        console.print(" …", style="dim", end="")
    console.print()
    return "".join(said)


def _opening(system: str | None) -> list[dict]:
    return [{"role": "system", "content": system}] if system else []


def _read(console: Any) -> str | None:
    """The next line; None at the end of the input, or on Ctrl-C."""
    try:
        with utf8_input():
            line = console.input("[bold]> [/bold]" if sys.stdin.isatty() else "")
            line.encode()
    except (EOFError, KeyboardInterrupt):
        return None
    return line
