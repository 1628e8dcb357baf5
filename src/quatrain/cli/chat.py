"""`quatrain chat`."""

import sys

from quatrain.cli.arguments import Adapter, Device, MaxNewTokens, Named, Quantization, System, Temperature

_HELP = "/reset starts over, /system TEXT sets the system message, /exit leaves"


def chat(
    named: Named,
    adapter: Adapter = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    quantization: Quantization = None,
    device: Device = None,
) -> None:
    """Talk to a base or to what a run has made of it.

    Each message is rendered by the same template as in training. `/reset` starts over, `/system TEXT` sets the system
    message, `/exit` leaves. Lines from a pipe are answered one after the other.
    """
    from rich.console import Console

    from quatrain.cli.opening import open_model
    from quatrain.evaluation import stream_reply

    console = Console(highlight=False)
    model, tokenizer = open_model(named, adapter=adapter, quantization=quantization, device=device)
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
            reply = stream_reply(
                model,
                tokenizer,
                history,
                lambda piece: console.print(piece, end="", markup=False, soft_wrap=True),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
            )
            console.print()
            history.append({"role": "assistant", "content": reply})


def _opening(system: str | None) -> list[dict]:
    return [{"role": "system", "content": system}] if system else []


def _read(console) -> str | None:
    """The next line, or None at the end of the input."""
    try:
        return console.input("[bold]> [/bold]" if sys.stdin.isatty() else "")
    except EOFError:
        return None
