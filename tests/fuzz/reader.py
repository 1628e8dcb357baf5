"""What is fuzzed: a way to read, and a few good files to begin with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quatrain.errors import QuatrainError


@dataclass(frozen=True)
class Reader:
    """A reader of foreign bytes."""

    name: str
    seeds: Callable[[], list[bytes]]
    """Good inputs, made by the programs that make them in life where that is quick."""
    read: Callable[[bytes, Path], object]
    """Reads the bytes with the help of an empty folder; any error but a `QuatrainError` is a finding."""

    def try_on(self, content: bytes, folder: Path) -> bool:
        """Whether the bytes were read; False if they were refused as they should be.

        Raises:
            Exception: a finding.
        """
        try:
            self.read(content, folder)
        except QuatrainError as error:
            if not str(error).strip() or "\n" in str(error):
                raise AssertionError(f"not an error of one line: {error!r}") from error
            return False
        return True
