"""A folder's seal: `manifest.json` with the size and SHA-256 of every other file, written when all of them are on disk.

::

    {"version": 1, "files": {"state.json": {"size": 5120, "sha256": "9f86d0…"}, ...}}

A folder without one was never finished; a file that doesn't match was changed, cut or worn out since. The sums are
taken of what this process wrote, before it is synced; the check asks the system to drop what it holds of the file in
memory first, so that it reads the disk (a hint, which file systems may ignore). The seal finds accidents, not
attackers: who can write the files can write their sums.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quatrain.files import Files

MANIFEST = "manifest.json"
_VERSION = 1
# A manifest has some hundred bytes a file; one beyond this isn't ours and isn't read.
_LARGEST_MANIFEST = 2**20


def seal(folder: Path, files: Files) -> None:
    """Sync every file in `folder` (not in folders below it), then write its manifest and sync that and the folder.

    Raises:
        OSError: the disk can't.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    entries = {path.name: {"size": path.stat().st_size, "sha256": _sum(path)} for path in paths}
    for path in paths:
        files.sync(path)
    manifest = folder / MANIFEST
    text = json.dumps({"version": _VERSION, "files": entries}, indent=1)
    files.write(lambda: manifest.write_text(text, encoding="utf-8"), manifest)
    files.sync(manifest)
    files.sync(folder)


def flaw(folder: Path, required: Iterable[str], *, sums: bool = True) -> str | None:
    """What is wrong with a sealed folder, in a few words; None when it is whole.

    Args:
        folder: the sealed folder.
        required: names that must be there, whatever the manifest says.
        sums: also read every file and compare its sum; otherwise only names and sizes, which costs next to nothing.
    """
    try:
        entries = _entries(folder / MANIFEST)
        if absent := sorted(set(required) - entries.keys()):
            return f"{MANIFEST} doesn't list {', '.join(absent)}"
        found = (_flaw_of(folder / name, entry, sums=sums) for name, entry in entries.items())
        return next((words for words in found if words is not None), None)
    except FileNotFoundError:
        return f"no {MANIFEST}: it was never finished, or the file was removed"
    except OSError as error:
        return f"it can't be read ({error})"
    except (ValueError, RecursionError) as error:
        return f"{MANIFEST} is unreadable ({error})"


def _entries(manifest: Path) -> dict[str, dict[str, Any]]:
    """The manifest's files; ValueError when it isn't a manifest, or names something outside of its folder."""
    if manifest.stat().st_size > _LARGEST_MANIFEST:
        raise ValueError(f"more than {_LARGEST_MANIFEST} bytes")
    content = json.loads(manifest.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise ValueError(f"not a manifest of version {_VERSION}")
    entries = content.get("files")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError("no table of files")
    for name in entries:
        if name in (".", "..") or "\0" in name or Path(name).name != name:
            raise ValueError(f"{name!r} isn't the name of a file beside it")
    return entries


def _flaw_of(path: Path, entry: dict[str, Any], *, sums: bool) -> str | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return f"{path.name} is missing"
    if not stat.S_ISREG(found.st_mode):
        return f"{path.name} isn't a file"
    if found.st_size != entry.get("size"):
        return f"{path.name} has {found.st_size:,} bytes instead of {entry.get('size')}"
    if sums and _sum(path, from_disk=True) != entry.get("sha256"):
        return f"{path.name} has another SHA-256 than when it was written"
    return None


def _sum(path: Path, *, from_disk: bool = False) -> str:
    with path.open("rb") as file:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()
