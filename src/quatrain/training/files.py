"""The few things that a checkpoint does to a disk, in one place, so that tests can let each one fail or be the last.

A rename is atomic but not ordered against the data of what is renamed: after a loss of power the new name may stand for
files that were never written. So files are synced, then the folder that names them, and only then is it renamed.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


class Files:
    """Plain file operations; each raises OSError when the disk can't do it."""

    def make_folder(self, path: Path) -> None:
        """Make a new folder, and those above it that are missing."""
        path.mkdir(parents=True)

    def write(self, write: Callable[[], object], *paths: Path) -> None:
        """Call `write`, which makes the files `paths` in this order."""
        write()

    def sync(self, path: Path) -> None:
        """Wait until a file's content, or the names in a folder, are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, path: Path, to: Path) -> None:
        """Give a folder another name, at once or not at all."""
        path.rename(to)

    def remove(self, path: Path) -> None:
        """Remove a file, a link (not what it points to), or a folder with all that is in it."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
