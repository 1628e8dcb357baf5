"""The few things that we do to a disk so that nobody ever finds half of a result, in one place, so that tests can let
each one fail or be the last.

A rename is atomic but not ordered against the data of what is renamed: after a loss of power the new name may stand for
files that were never written. So files are synced, then the folder that names them, and only then is it renamed.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from safetensors import SafetensorError

from quatrain.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor


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


def save_tensors(tensors: Mapping[str, "Tensor"], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file, and read it back.

    Raises:
        OutputError: it isn't on the disk as it was written.
        OSError, SafetensorError: the disk can't.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    save_file(dict(tensors), path, metadata=metadata)
    with safe_open(path, framework="pt") as file:
        same = set(file.keys()) == tensors.keys() and all(
            _bytes(file.get_tensor(name)).equal(_bytes(tensor)) for name, tensor in tensors.items()
        )
    if not same:
        raise OutputError(f"{path.name} isn't on the disk as it was written; look after the disk")


def _bytes(tensor: "Tensor") -> "Tensor":
    """To be compared: NaN, which a run that has diverged holds, equals nothing."""
    import torch

    return tensor.reshape(-1).view(torch.uint8)


def check_free(folder: Path) -> None:
    """To be asked before any work whose result goes to `folder`.

    Raises:
        OutputError: something is there already, or the disk won't have a folder there.
    """
    try:
        occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise OutputError(f"{folder} can't be looked into ({error}); choose another folder") from error
    if occupied:
        raise OutputError(f"the result goes into a new folder, and {folder} holds something; choose another")


@contextmanager
def file_aside(final: Path) -> Iterator[BinaryIO]:
    """A new file to write into. It becomes `final`, at once and with its content on the disk, when the body has ended
    well; otherwise it vanishes, and a file that is there stays. Raises OSError when the disk can't.
    """
    aside = final.with_name(f".{final.name}.new")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(final)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """A result file, at once or not at all.

    Raises:
        OutputError: the disk can't be written to.
    """
    try:
        with file_aside(path) as file:
            file.write(json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise OutputError(f"{path} can't be written ({error}); choose another file") from error


@contextmanager
def folder_aside(final: Path, files: Files) -> Iterator[Path]:
    """A new folder beside `final` to write into. What of it is left when the body has ended, because nobody has renamed
    it, is removed; and so is what a process that was killed has left. Raises OSError when the disk can't.
    """
    aside = final.with_name(f".{final.name.lstrip('.')}.writing")
    try:
        if aside.exists():
            files.remove(aside)
        files.make_folder(aside)
        yield aside
    finally:
        with suppress(OSError):
            if aside.exists():
                files.remove(aside)


@contextmanager
def written_aside(final: Path, files: Files | None = None) -> Iterator[Path]:
    """A new folder to write into. It becomes `final` once the body has ended well (and so may have read back what it
    wrote), and vanishes when the body, or the disk, fails.

    If `final` exists, its files of the same names are replaced one by one, each at once, and others stay.

    Args:
        final: the folder to make.
        files: what works on the disk; another one only in tests.

    Raises:
        OutputError: the disk can't, or is full; whatever was at `final` is still there as it was.
    """
    files = files or Files()
    try:
        with folder_aside(final, files) as aside:
            yield aside
            _put_in_place(aside, final, files)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{final} can't be written ({error}); nothing of it was left behind. Free space on that disk, or choose "
            "another folder"
        ) from error


def _put_in_place(aside: Path, final: Path, files: Files) -> None:
    for path in aside.rglob("*"):
        files.sync(path)
    files.sync(aside)
    if final.is_dir():
        for path in sorted(aside.iterdir()):
            files.rename(path, final / path.name)
        files.sync(final)
    else:
        files.rename(aside, final)
        files.sync(final.parent)
