"""A disk that fails, or a process that dies, at a chosen point of a save."""

import errno
import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import NoReturn

from quatrain.files import Files

KILLED = 77
"""Exit status of a process that :func:`kill` has ended."""


def kill() -> NoReturn:
    """End the process like SIGKILL: no handler, no `finally`, no buffer is written."""
    os._exit(KILLED)


def fail() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FaultyFiles(Files):
    """Numbers the points at which a save can stop, and calls `strike` at those in `at`.

    A point lies before each operation; inside a write, once for each file, with that file cut in half and those after
    it not there yet; and inside a removal, with one file gone.
    """

    def __init__(self, strike: Callable[[], NoReturn], at: Container[int] = ()):
        self.strike, self.at = strike, at
        self.points: list[str] = []

    def make_folder(self, path: Path) -> None:
        self._point(f"before making {path.name}")
        super().make_folder(path)

    def write(self, write: Callable[[], object], *paths: Path) -> None:
        self._point(f"before writing {paths[0].name}")
        super().write(write, *paths)
        for i, path in enumerate(paths):
            self._point(f"in the middle of {path.name}", lambda i=i: _tear(paths[i], paths[i + 1 :]))

    def sync(self, path: Path) -> None:
        self._point(f"before syncing {path.name}")
        super().sync(path)

    def rename(self, path: Path, to: Path) -> None:
        self._point(f"before {path.name} becomes {to.name}")
        super().rename(path, to)

    def remove(self, path: Path) -> None:
        self._point(f"before removing {path.name}")
        self._point(f"while removing {path.name}", lambda: next(path.iterdir()).unlink())
        super().remove(path)

    def _point(self, name: str, damage: Callable[[], object] = lambda: None) -> None:
        number = len(self.points)
        self.points.append(name)
        if number in self.at:
            damage()
            self.strike()


def _tear(path: Path, later: tuple[Path, ...]) -> None:
    os.truncate(path, path.stat().st_size // 2)
    for other in later:
        other.unlink()
