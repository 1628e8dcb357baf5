"""Where tables are printed to."""

from rich.console import Console

_WIDE = 200


def table_console() -> Console:
    """As wide as the terminal, and in a file as wide as the tables want to be. What it prints is never taken for rich's
    markup, because names of tasks, groups and systems come out of files."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_WIDE)
