"""One run at a time in a folder: the file `run.lock` names the process that writes there.

Taking it. The record is written whole under a name of its own, synced, then hard-linked to `run.lock`: a link is made
by one of several starters, on network disks too, and whoever reads the file finds all of it. (The kernel's file locks
would vanish with their process by themselves, but many network disks don't carry them, and they can't say who holds
one.) Where a file system has no hard links, the file is created exclusively and written in place, so a reader waits a
moment before it calls a record torn.

Taking it over. A lock whose owner is provably dead (:mod:`quatrain.runlog.owner`) is replaced. "Read, delete, create"
would let the slower of two starters delete the lock that the faster has just made. So a starter first takes a second
lock, of the same kind, named after the dead owner's token; under it, only if the dead record is still there, it renames
its own over it. That second lock may be left behind by a crash too, and is then taken over in the same way.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from quatrain.errors import CheckpointError
from quatrain.runlog.owner import Owner, from_json, state_of, this_process, to_json

_MOST_BYTES = 4096
_PATIENCE_S = 1.0
_MOST_TRIES = 100


@contextmanager
def locked(path: Path) -> Iterator[Owner | None]:
    """Hold the lock file at `path` for this process; its folder is made, and removed again if nothing came into it.

    Yields:
        The dead owner whose lock was taken over, or None.

    Raises:
        CheckpointError: another process holds it or may hold it, its record can't be read, or nothing can be written.
    """
    me = this_process()
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        yield _take_or_say_why(path, me)
    finally:
        _release(path, me)
        # Fails where something lies in the folder, which is how a run leaves it.
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _take_or_say_why(path: Path, me: Owner) -> Owner | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _take(path, me)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"output_dir {path.parent} can't be written ({error.strerror}); choose another."
        ) from error


def _take(path: Path, me: Owner) -> Owner | None:
    for _ in range(_MOST_TRIES):
        if _create(path, me):
            return None
        found = _read(path)
        if found is None:
            continue  # released in the meantime
        if (state := state_of(found, path.parent)) != "dead":
            _refuse(path, found, state)
        claim = path.with_name(f"{path.name}.{found.token}")
        try:
            _take(claim, me)
            if _read(path) == found:
                _replace(path, me)
                return found
        finally:
            _release(claim, me)
    raise CheckpointError(
        f"{path} comes and goes: other runs start and end in {path.parent}. Choose another output_dir."
    )


def _refuse(path: Path, owner: Owner, state: str) -> NoReturn:
    if state == "alive":
        raise CheckpointError(
            f"one run at a time may write to {path.parent}, and {owner} does. "
            "Wait for it, stop it, or choose another output_dir."
        )
    raise CheckpointError(
        f"one run at a time may write to {path.parent}, and {owner} does or did: whether it still runs can't be seen "
        f"from here. Look there; if it is gone, delete {path} and start again. Or choose another output_dir."
    )


def _create(path: Path, me: Owner) -> bool:
    """Whether the lock was free, and so is ours now."""
    draft = _written_draft(path, me)
    try:
        os.link(draft, path)
    except FileExistsError:
        # A network disk may lose its answer and ask again: then the link that exists is ours.
        return draft.stat().st_nlink == 2
    except OSError:
        return _create_in_place(path, me)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _create_in_place(path: Path, me: Owner) -> bool:
    """For file systems without hard links."""
    try:
        _write(path, me)
    except FileExistsError:
        return False
    return True


def _replace(path: Path, me: Owner) -> None:
    os.replace(_written_draft(path, me), path)


def _written_draft(path: Path, me: Owner) -> Path:
    draft = path.with_name(f"{path.name}.{me.token}.new")
    _write(draft, me)
    return draft


def _write(path: Path, me: Owner) -> None:
    """A new file with the record in it, on the disk; none at all if that fails."""
    with path.open("xb") as file:
        try:
            file.write(to_json(me))
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _read(path: Path) -> Owner | None:
    """Who holds the lock; None if nobody does.

    Raises:
        CheckpointError: it stays unreadable for longer than another starter needs to write it.
    """
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return from_json(_head(path))
        except FileNotFoundError:
            if not path.is_symlink():
                return None
            reason = "it is a link to nowhere"
        except (OSError, ValueError) as error:
            reason = str(error)
        if time.monotonic() > give_up:
            raise CheckpointError(
                f"{path} should say which run writes to its folder, and can't be read ({reason}). "
                "Make sure that no run goes on there, then delete it and start again."
            )
        time.sleep(0.02)


def _head(path: Path) -> bytes:
    """The first bytes of a file, without waiting if it is a pipe."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        return file.read(_MOST_BYTES) or b""


def _release(path: Path, me: Owner) -> None:
    """Remove the lock if it is ours. On a disk that is gone it stays behind, and is recognised as a dead owner's."""
    with suppress(OSError, ValueError):
        path.with_name(f"{path.name}.{me.token}.new").unlink(missing_ok=True)
        if from_json(_head(path)).token == me.token:
            path.unlink()
