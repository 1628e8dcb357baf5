"""Bringing stored tensors to a device while earlier ones are being used.

    files ─ threads ─► a ring of pinned buffers ─ copy engine ─► device bytes ─► the caller, in the order asked for

Three things are slow alone and can happen at once: reading a file (one core copies some 7 GB/s out of the page cache),
the copy over the bus, and what the caller does on the device. So several threads read ahead, a piece of a tensor into
the next buffer of the ring each; when the caller wants a tensor, its pieces' copies are begun as they become complete,
and each buffer is at once given to a thread for a later piece. The caller gets device tensors that later work on the
device may use; it never waits for a copy, let alone for its own work.

The threads do nothing but read, because all else needs Python's lock, and with it they would slow down the caller.
Memory is bounded on both sides: on the host by the ring, on the device because a tensor gets its memory when it is
asked for. Mapping the files instead would be page faults and a second copy by the driver, since only pinned memory can
be fetched directly.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
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
class Ring:
    """What reading ahead may take."""

    threads: int = min(16, os.cpu_count() or 1)
    """Readers; with more, each only gets less of the memory's bandwidth."""
    piece: int = 16 << 20
    """Bytes that are read and copied at a time: long enough that Python's part of it, some 0.1 ms, doesn't count."""
    pieces: int = 24
    """Pinned buffers: one being filled for each thread, and some that are full or being copied."""


class Lane(Protocol):
    """A device, as far as reading ahead has to know it. Only `buffer` is called from other threads."""

    def buffer(self, nbytes: int) -> Tensor:
        """Bytes [nbytes] on the host that `copy` can read from."""
        ...

    def allocate(self, nbytes: int) -> Tensor:
        """Bytes [nbytes] on the device; copies into them wait for what the caller has asked of the device so far."""
        ...

    def copying(self) -> AbstractContextManager:
        """Within it, `copy` may be called."""
        ...

    def copy(self, source: Tensor, target: Tensor) -> Callable[[], None]:
        """Begins to copy from the host to the device; what it returns waits, in any thread, for the end of that."""
        ...

    def land(self) -> None:
        """Makes all that the caller asks of the device from now on wait for the copies begun so far."""
        ...

    def close(self) -> None:
        """Waits for all copies."""
        ...


def read_ahead(
    groups: Iterable[list[str]], extents: Mapping[str, Extent], lane: Lane, ring: Ring | None = None
) -> Generator[dict[str, Tensor], None, None]:
    """The tensors of each group on the lane's device, group after group; close the generator if you leave it early.

    Args:
        groups: Names in `extents`, in the order in which they are needed.
        extents: Where each tensor lies.
        lane: The device; a tensor's memory there is its own.
        ring: Threads and host memory to take.

    Raises:
        ModelError: A file can't be read or ends too early; the message names the tensor.
    """
    groups = [list(names) for names in groups]
    reader = _Reader([name for names in groups for name in names], extents, lane, ring or Ring())
    try:
        for names in groups:
            arrived = {name: reader.bring(extents[name]) for name in names}
            lane.land()
            yield arrived
            # Not even this frame may hold on to what the caller has let go.
            del arrived
    finally:
        reader.close()


class _Piece(NamedTuple):
    """A part of a tensor."""

    name: str
    path: Path
    offset: int
    nbytes: int


class _Slot:
    """A buffer of the ring: a piece is read into it, then copied out of it, then the next one is read."""

    def __init__(self, lane: Lane, nbytes: int):
        self._lane, self._nbytes = lane, nbytes
        self._buffer: Tensor | None = None
        self._path: Path | None = None
        self._file: FileIO | None = None
        self._copied: Callable[[], None] | None = None

    def read(self, piece: _Piece) -> Tensor:
        """Runs in a thread. The piece's bytes."""
        if self._buffer is None:
            # Here, so that several are pinned at once: the system needs half a second for a gigabyte.
            self._buffer = self._lane.buffer(self._nbytes)
        if self._copied is not None:
            self._copied()
        part = self._buffer[: piece.nbytes]
        try:
            self._fill(part.numpy().data, piece)
        except OSError as error:
            raise ModelError(
                f"{piece.name} must be readable from {piece.path}: {error}. Download the file again."
            ) from error
        return part

    def _fill(self, left: memoryview, piece: _Piece) -> None:
        if self._file is None or self._path != piece.path:
            self.close()
            self._file, self._path = FileIO(piece.path), piece.path
        self._file.seek(piece.offset)
        while left:
            count = self._file.readinto(left)
            if not count:
                raise OSError(f"it ends at byte {self._file.tell()}")
            left = left[count:]

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Begins to copy what was read."""
        self._copied = self._lane.copy(source, target)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Reader:
    """The threads, the ring, and what is being read."""

    def __init__(self, names: list[str], extents: Mapping[str, Extent], lane: Lane, ring: Ring):
        self._lane = lane
        self._size = max(1, min(ring.piece, max((extents[name].nbytes for name in names), default=0)))
        self._unread = self._pieces(names, extents)
        self._threads = ThreadPoolExecutor(ring.threads, thread_name_prefix="quatrain-read")
        self._slots = [_Slot(lane, self._size) for _ in range(ring.pieces)]
        self._reads: deque[tuple[_Slot, Future[Tensor]]] = deque()
        for slot in self._slots:
            self._read_next(slot)

    def bring(self, extent: Extent) -> Tensor:
        """The next tensor, whose extent this is: its copies have begun."""
        target = self._lane.allocate(extent.nbytes)
        with self._lane.copying():
            for start in range(0, extent.nbytes, self._size):
                slot, read = self._reads.popleft()
                slot.copy(read.result(), target[start : start + self._size])
                self._read_next(slot)
        return target.view(extent.dtype).view(extent.shape)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._lane.close()
        for slot in self._slots:
            slot.close()

    def _read_next(self, slot: _Slot) -> None:
        """Gives the slot the next piece that nobody reads yet."""
        piece = next(self._unread, None)
        if piece is not None:
            self._reads.append((slot, self._threads.submit(slot.read, piece)))

    def _pieces(self, names: list[str], extents: Mapping[str, Extent]) -> Iterator[_Piece]:
        for name in names:
            path, offset, nbytes, *_ = extents[name]
            for start in range(0, nbytes, self._size):
                yield _Piece(name, path, offset + start, min(self._size, nbytes - start))
