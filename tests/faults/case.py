"""What a case of the matrix is, and how one is written.

    @fault("an index that names a file in another folder", ModelError, "must lie in its own folder")
    def _(at: Place) -> Call:
        folder = at.model()
        at.edit_json(folder / "model.safetensors.index.json", lambda index: ...)
        return lambda: load_model(folder)

The function makes the input, and returns what is then called: a public function, or a command (`at.command`). A fault
is refused by a typed error with one line for the user, whose words are given here; or, with `recovers`, it is lived
with, and the words say how. Decorated functions gather in the matrix (`matrix.py`), in the order of their files.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from quatrain.errors import ConfigError, QuatrainError
from tests.faults.place import Place

Call = Callable[[], Any]
"""What meets the fault. For `recovers`, it also checks that all is well afterwards."""

Make = Callable[[Place], Call]
"""Makes the bad input and returns the call."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault with what must come of it."""

    area: str
    """The name of its file in `areas/`."""
    fault: str
    """In words, for the table in the docs."""
    error: type[QuatrainError] | None
    """What is raised; None for a fault that is lived with."""
    says: str
    """Part of the error's one line, literally; for a fault that is lived with, how."""
    leaves: tuple[str, ...]
    """Patterns of files that a refused call may leave behind, relative to the place."""
    make: Make

    @property
    def name(self) -> str:
        """What pytest calls it."""
        return f"{self.area}-{re.sub('[^a-z0-9]+', '-', self.fault.lower()).strip('-')}"

    @property
    def exit_code(self) -> int:
        """Of the command line."""
        if self.error is None:
            return 0
        return 2 if issubclass(self.error, ConfigError) else 1


MATRIX: list[Case] = []


def fault(fault: str, error: type[QuatrainError], says: str, *, leaves: tuple[str, ...] = ()) -> Callable[[Make], Make]:
    """A case that is refused: `error` with `says` in its line, and nothing left on the disk but what `leaves` names."""
    return _gathered(fault, error, says, leaves)


def recovers(fault: str, how: str) -> Callable[[Make], Make]:
    """A case that is lived with: the call returns, and has checked that what `how` says is so."""
    return _gathered(fault, None, how, ())


def _gathered(
    fault: str, error: type[QuatrainError] | None, says: str, leaves: tuple[str, ...]
) -> Callable[[Make], Make]:
    def gather(make: Make) -> Make:
        code: Any = getattr(make, "func", make)  # of a `functools.partial`
        area = PurePath(code.__code__.co_filename).stem
        MATRIX.append(Case(area=area, fault=fault, error=error, says=says, leaves=leaves, make=make))
        return make

    return gather
