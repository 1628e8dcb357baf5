"""Who holds a run folder, and whether that process still lives.

A pid alone says little: it is given out again after a process ends, another container counts its own, and a network
disk shows the folder to machines that can't see the process at all. So an owner is written down with the host, the
kernel's boot id, the namespace that its pid belongs to, and the tick at which it started. The tick counts from the
boot, unlike `psutil`'s time of creation, which on Linux moves when somebody sets the clock.

"Dead" is said only when it is proven; what can't be seen from here is "unknown", and a person decides.
"""

import json
import os
import re
import socket
import sys
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil

# Only one kernel at a time mounts these, so whoever wrote there under another boot is gone.
_LOCAL_FILESYSTEMS = {"apfs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}


@dataclass(frozen=True, kw_only=True)
class Owner:
    """One attempt of one process to hold a folder."""

    host: str
    boot: str
    """The kernel's boot id; empty where the system has none."""
    namespace: str
    """What `pid` is counted in; empty where the system knows one count only."""
    pid: int
    birth: str
    """When the process started, by :func:`birth_of`: the same pid with another birth is another process."""
    since: str
    """When the folder was taken, in UTC, for people."""
    token: str
    """32 random hexadecimal digits: two attempts of one process aren't the same owner."""

    def __post_init__(self) -> None:
        texts = (self.host, self.boot, self.namespace, self.birth, self.since)
        if not all(isinstance(text, str) and text.isprintable() for text in texts):
            raise ValueError("its texts aren't plain")
        if type(self.pid) is not int or not 0 < self.pid < 2**31:
            raise ValueError("its pid isn't one")
        if not isinstance(self.token, str) or not re.fullmatch("[0-9a-f]{32}", self.token):
            raise ValueError("its token isn't one")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


def this_process() -> Owner:
    """A fresh owner: this process, now."""
    return Owner(
        host=socket.gethostname() or "localhost",
        boot=_text_of(Path("/proc/sys/kernel/random/boot_id")),
        namespace=_pid_namespace(),
        pid=os.getpid(),
        birth=birth_of(os.getpid()) or "",
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        token=uuid.uuid4().hex,
    )


def to_json(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode() + b"\n"


def from_json(text: bytes) -> Owner:
    """The owner that a lock file names.

    Raises:
        ValueError: it is torn, or no lock file at all.
    """
    try:
        return Owner(**json.loads(text))
    except (TypeError, RecursionError) as error:
        raise ValueError("it isn't an owner's record") from error


def state_of(owner: Owner, folder: Path) -> Literal["alive", "dead", "unknown"]:
    """Whether the process that holds `folder` lives, as far as this process can tell."""
    here = this_process()
    if owner.host != here.host:
        return "unknown"
    if owner.boot != here.boot:
        # Either this machine was restarted, or it has a twin of the same name on the same network disk.
        return "dead" if _filesystem(folder) in _LOCAL_FILESYSTEMS else "unknown"
    if owner.namespace != here.namespace:
        return "unknown"
    born = birth_of(owner.pid)
    return "alive" if born in (owner.birth, "") else "dead"


def birth_of(pid: int) -> str | None:
    """When the process `pid` started; None if there is none (or only a zombie), empty if that can't be told."""
    if sys.platform != "linux":
        return _birth_by_psutil(pid)
    try:
        # The command's name, in parentheses, may hold anything; what follows it doesn't.
        state, *others = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        # A system that hides the processes of other users shows no entry for them either.
        return "" if _takes_signals(pid) else None
    return None if state in ("Z", "X") else others[18]


def _birth_by_psutil(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return ""


def _takes_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text_of(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _filesystem(folder: Path) -> str:
    """The type of the file system that `folder` lies on; empty if no mount is known for it."""
    folder = folder.resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if folder.is_relative_to(m.mountpoint)]
    # Of two mounts on one place the later hides the earlier, and `max` keeps the first of equals.
    return max(reversed(mounts), key=lambda mount: len(mount.mountpoint)).fstype if mounts else ""
