"""A conversation at the prompt: with one speaker at a time, or with all of them side by side.

A speaker is the base or an adapter on it. Each has a history of its own: what only one was asked, all remember, so that
the next can go on from there; what all were asked, each remembers with the answer that it gave itself.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from quatrain.cli.arguments import utf8_input

Reply = Callable[[str, list[dict], Callable[[str], None]], object]
"""Given a speaker and its history, tells its next turn piece by piece."""

HELP = (
    "/reset starts over, /system TEXT sets the system message, /adapter NAME switches, /compare shows all side by "
    "side, /help says this, /exit leaves"
)


class Conversation:
    """Answers line after line, until they end or one says so.

    Args:
        console: rich's.
        reply: asks a speaker.
        speakers: their names; the base is one.
        active: who answers.
        system: a system message to begin with.
    """

    def __init__(self, console: Any, reply: Reply, speakers: Sequence[str], active: str, system: str | None):
        self._console, self._reply = console, reply
        self._speakers, self._active, self._system = tuple(speakers), active, system
        self._comparing = False
        self._histories: dict[str, list[dict]] = {}
        self._start_over()

    def run(self) -> None:
        """Until the end of the input, Ctrl-C at the prompt, or `/exit`."""
        if sys.stdin.isatty():
            self._note(HELP)
        while (line := self._read()) not in (None, "/exit"):
            assert line is not None
            if line.strip() and not self._obey(*line.partition(" ")[::2]):
                self._answer(line)

    def _obey(self, command: str, rest: str) -> bool:
        """Whether it was a command; anything else is a message."""
        match command:
            case "/help":
                self._note(HELP)
            case "/reset":
                self._start_over()
                self._note("starting over")
            case "/system":
                self._system = rest
                self._start_over()
            case "/adapter":
                self._switch(rest.strip())
            case "/compare":
                self._comparing = not self._comparing
                self._note(f"side by side: {', '.join(self._speakers)}" if self._comparing else f"now {self._active}")
            case _:
                return False
        return True

    def _switch(self, name: str) -> None:
        if name in self._speakers:
            self._active, self._comparing = name, False
        self._note(f"there are {', '.join(self._speakers)}; {self._active} answers")

    def _start_over(self) -> None:
        opening = [{"role": "system", "content": self._system}] if self._system else []
        self._histories = {name: list(opening) for name in self._speakers}

    def _answer(self, line: str) -> None:
        for history in self._histories.values():
            history.append({"role": "user", "content": line})
        said = self._side_by_side() if self._comparing else dict.fromkeys(self._speakers, self._say())
        for name, history in self._histories.items():
            history.append({"role": "assistant", "content": said[name]})

    def _say(self) -> str:
        """The active speaker's reply, printed as it comes. What was said before a Ctrl-C counts as said."""
        said: list[str] = []

        def on_text(piece: str) -> None:
            said.append(piece)
            self._console.print(piece, end="", markup=False, soft_wrap=True)

        try:
            self._reply(self._active, self._histories[self._active], on_text)
        except KeyboardInterrupt:
            self._console.print(" …", style="dim", end="")
        self._console.print()
        return "".join(said)

    def _side_by_side(self) -> dict[str, str]:
        """Everybody's reply, in columns that fill one after the other; Ctrl-C stops them all."""
        from rich.live import Live

        said = dict.fromkeys(self._speakers, "")
        with Live(_columns(said), console=self._console) as live:
            try:
                for name in self._speakers:

                    def on_text(piece: str, name: str = name) -> None:
                        said[name] += piece
                        live.update(_columns(said))

                    self._reply(name, self._histories[name], on_text)
            except KeyboardInterrupt:
                pass
        return said

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)

    def _read(self) -> str | None:
        """The next line; None at the end of the input, or on Ctrl-C."""
        try:
            with utf8_input():
                line = self._console.input("[bold]> [/bold]" if sys.stdin.isatty() else "")
                line.encode()
        except (EOFError, KeyboardInterrupt):
            return None
        return line


def _columns(said: dict[str, str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for name in said:
        table.add_column(Text(name), ratio=1)
    table.add_row(*(Text(text) for text in said.values()))
    return table
