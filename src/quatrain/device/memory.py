"""How much memory a run uses and how much is left, in bytes.

On a GPU the numbers come from PyTorch's caching allocator: what tensors occupy, not what the allocator has reserved,
because reserved but unused blocks are handed out again. Memory that was given up but that another stream may still use
counts as occupied, because nobody else can have it. On the CPU they are the process' resident set and its
high-water mark, which the Linux kernel lets a process reset; elsewhere the mark only rises.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import torch


class MemoryUse(NamedTuple):
    """Bytes in use by this process on one device: now, and the most since the last :func:`reset_peak`."""

    current: int
    peak: int


def memory_in_use(device: torch.device) -> MemoryUse:
    """What this process occupies on ``device``."""
    if device.type == "cuda":
        figures = torch.cuda.memory_stats(device)
        return MemoryUse(figures.get("active_bytes.all.current", 0), figures.get("active_bytes.all.peak", 0))
    current = psutil.Process().memory_info().rss
    return MemoryUse(current, max(current, _high_water_mark()))


def reset_peak(device: torch.device) -> None:
    """Start a new peak from what is in use now; where the system can't reset a process' peak, it stays."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        # proc(5): writing 5 resets the peak resident set size to the current one. Some sandboxes refuse it.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def limit_memory(device: torch.device, nbytes: int) -> None:
    """Let this process' tensors take at most ``nbytes`` of a GPU; a CPU has no such limit."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, nbytes / total), device)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on ``device``.

    On a GPU: what the driver has free plus what PyTorch's allocator holds in reserve, within :func:`limit_memory`. On
    the CPU: what the system can give without swapping, or less when a container's limit (cgroup) leaves less.
    """
    if device.type == "cuda":
        used = torch.cuda.memory_allocated(device)
        free, total = torch.cuda.mem_get_info(device)
        limit = int(torch.cuda.get_per_process_memory_fraction(device) * total)
        return max(0, min(free + torch.cuda.memory_reserved(device), limit) - used)
    return min(psutil.virtual_memory().available, *container_room(_own_cgroups()))


def container_room(folders: list[Path]) -> list[int]:
    """For each cgroup folder that sets a memory limit, the bytes left under it.

    The kernel counts cached file pages as used although it drops them first when memory runs short; the inactive ones
    are given back here, as container runtimes do when they report usage.
    """
    room = []
    for folder in folders:
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit_file = folder / limit_name
            limit = limit_file.read_text().strip() if limit_file.exists() else "max"
            if limit != "max":
                used = int((folder / used_name).read_text()) - _inactive_file_pages(folder / "memory.stat")
                room.append(max(0, int(limit) - used))
    return room


def _own_cgroups() -> list[Path]:
    """The cgroup folders, inner to outer, whose memory limits bind this process (version 2, then version 1)."""
    listing = Path("/proc/self/cgroup")
    folders: list[Path] = []
    for line in listing.read_text().splitlines() if listing.exists() else []:
        _, controllers, inside = line.split(":", 2)
        if controllers in ("", "memory"):
            root = Path("/sys/fs/cgroup") / controllers
            innermost = root / inside.lstrip("/")
            folders += [f for f in (innermost, *innermost.parents) if f.is_relative_to(root)]
    return folders


def _inactive_file_pages(stat: Path) -> int:
    counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
    # Version 1 counts a group's descendants only in the total_ names; version 2 always does.
    return int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))


def _high_water_mark() -> int:
    """The most bytes that this process ever had resident; 0 where the system doesn't say."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
