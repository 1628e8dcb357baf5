"""Bringing stored tensors to a device while earlier ones are being used.

    files ─ threads ─► pinned pieces ─ copy engine ─► device bytes ─► the caller, in the order asked for

Three things are slow alone and can happen at once: reading a file (one core copies some 7 GB/s out of the page cache),
the copy over the bus, and what the caller does on the device. So several threads read, each a piece of a tensor at a
time into one of a few pinned buffers, from which the device's copy engine fetches it while the thread reads on. The
caller gets a group of tensors as soon as it is complete, as device tensors that later work on the device may use at
once.

Memory is bounded on both sides: the pinned buffers are made once and used again, and tensors only set out while those
on their way stay within a budget. Mapping the files instead would be one thread's page faults and a second copy by the
driver, since only pinned memory can be fetched directly.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from quatrain.errors import ModelError


class Extent(NamedTuple):
    """Where a stored tensor lies, and what its bytes mean."""

    path: Path
    offset: int
    """Of its first byte in the file."""
    nbytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What reading ahead may take."""

    threads: int = min(16, os.cpu_count() or 1)
    """Readers. More than the page cache's bandwidth can feed only take turns."""
    piece: int = 16 << 20
    """Bytes that are read and copied at a time: long enough that Python's part of it, some 0.1 ms, doesn't count."""
    pieces: int = 24
    """Pinned buffers: one being filled for each thread, and half as many being copied."""
    ahead: int = 512 << 20
    """Bytes on the device that have set out and aren't used yet. A larger group travels alone."""


class Lane(Protocol):
    """A device, as far as reading ahead has to know it. `buffer` and `copy` are called from several threads."""

    def buffer(self, nbytes: int) -> Tensor:
        """Bytes [nbytes] on the host that `copy` can read from."""
        ...

    def allocate(self, nbytes: int) -> Tensor:
        """Bytes [nbytes] on the device; copies into them wait for what the caller has asked of the device so far."""
        ...

    def copy(self, source: Tensor, target: Tensor) -> Callable[[], None]:
        """Begins to copy from the host to the device; what it returns waits for the end of that."""
        ...

    def land(self) -> None:
        """Makes all that the caller asks of the device from now on wait for the copies begun so far."""
        ...

    def close(self) -> None:
        """Waits for all copies."""
        ...


@dataclass
class _Staging:
    """A host buffer between a file and the device."""

    buffer: Tensor | None = None
    wait: Callable[[], None] | None = None
    """Waits for the end of the last copy out of it."""


@dataclass
class _Flight:
    """A group of tensors on its way."""

    nbytes: int
    tensors: dict[str, Tensor]
    pieces: list[Future]


def read_ahead(
    groups: Iterable[list[str]], extents: Mapping[str, Extent], lane: Lane, budget: Budget | None = None
) -> Generator[dict[str, Tensor], None, None]:
    """The tensors of each group on the lane's device, group after group.

    A tensor's memory is its own. What was handed out should be let go before the next group is asked for; the budget
    counts on it. Close the iterator if you leave it early.

    Args:
        groups: Names in `extents`, in the order in which they are needed.
        extents: Where each tensor lies.
        lane: The device.
        budget: Threads and memory to take.

    Raises:
        ModelError: A file can't be read or ends too early; the message names the tensor.
    """
    reader = _Reader(extents, lane, budget or Budget())
    waiting: deque[_Flight] = deque()
    try:
        for names in groups:
            nbytes = sum(extents[name].nbytes for name in names)
            while waiting and sum(flight.nbytes for flight in waiting) + nbytes > reader.budget.ahead:
                yield reader.land(waiting.popleft())
            waiting.append(reader.set_out(names, nbytes))
        while waiting:
            yield reader.land(waiting.popleft())
    finally:
        reader.close()


class _Reader:
    """The threads and their buffers."""

    def __init__(self, extents: Mapping[str, Extent], lane: Lane, budget: Budget):
        self.budget = budget
        self._extents, self._lane = extents, lane
        self._pool = ThreadPoolExecutor(budget.threads, thread_name_prefix="quatrain-read")
        largest = max((extent.nbytes for extent in extents.values()), default=0)
        self._piece = max(1, min(budget.piece, largest))
        # Buffers are made by the first threads that need one: pinning takes time, and small models need few.
        self._free: SimpleQueue[_Staging] = SimpleQueue()
        for _ in range(budget.pieces):
            self._free.put(_Staging())

    def set_out(self, names: list[str], nbytes: int) -> _Flight:
        """Makes room for a group on the device and queues its pieces."""
        flight = _Flight(nbytes, {}, [])
        for name in names:
            extent = self._extents[name]
            target = self._lane.allocate(extent.nbytes)
            for start in range(0, extent.nbytes, self._piece):
                part = target[start : start + self._piece]
                flight.pieces.append(self._pool.submit(self._carry, name, start, part))
            flight.tensors[name] = target.view(extent.dtype).view(extent.shape)
        return flight

    def land(self, flight: _Flight) -> dict[str, Tensor]:
        """Waits until the last piece's copy has begun; the device waits for its end."""
        for piece in flight.pieces:
            piece.result()
        self._lane.land()
        return flight.tensors

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._lane.close()

    def _carry(self, name: str, start: int, target: Tensor) -> None:
        """A piece's way from its file to the device; runs in a thread."""
        staging = self._free.get()
        try:
            if staging.buffer is None:
                staging.buffer = self._lane.buffer(self._piece)
            if staging.wait is not None:
                staging.wait()
            path, offset, *_ = self._extents[name]
            source = staging.buffer[: len(target)]
            _read_into(source, name, path, offset + start)
            staging.wait = self._lane.copy(source, target)
        finally:
            self._free.put(staging)


def _read_into(buffer: Tensor, name: str, path: Path, offset: int) -> None:
    """Fills the buffer from the file; Python's lock is released meanwhile."""
    left = buffer.numpy().data
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            while left:
                count = file.readinto(left)
                if not count:
                    raise OSError(f"it ends at byte {file.tell()}")
                left = left[count:]
    except OSError as error:
        raise ModelError(f"{name} must be readable from {path}: {error}. Download the file again.") from error
