"""Blobs in a file: the tier for what the host has no memory for.

    file ─ threads ─► pinned pieces ─ copy engine ─► the slot

The file has no name: it is unlinked as soon as it is open, so the system takes its space back however the process ends.
It is mapped once, for whoever wants single weights (a checkpoint's fingerprint, saving). Streaming reads it in pieces
into pinned memory, by several threads, ahead of use: a mapped page would be fetched by a fault at a time, and a second
time by the driver, which can copy from pinned memory only. What the host has free caches the file by itself; forward
and backward go through the blocks in opposite orders, so what was read last is what is wanted next.
"""

import mmap
import os
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, cast

import torch
from torch import Tensor

from quatrain.device import host_empty
from quatrain.errors import DeviceError
from quatrain.offload.tier import Arrival

PIECE = 16 << 20
"""Bytes that are read and copied at a time: long enough that Python's part of it doesn't count."""
_THREADS = 4
"""Readers. One alone waits for the disk half of the time, and copies out of the page cache at 7 GB/s at most."""
_PIECES = 2 * _THREADS
"""Pinned pieces: one being filled and one being copied for each thread."""


class DiskTier:
    """Blobs in a file without a name in `folder`, read to `device`."""

    def __init__(self, device: torch.device, folder: Path):
        self._device, self._folder = device, folder
        self._runtime = torch.get_device_module(device)
        self._copies = self._runtime.Stream(device)
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed with the tier)
        except OSError as error:
            raise self._trouble(error) from error
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="quatrain-stream")
        weakref.finalize(self, _close, self._pool, cast(BinaryIO, self._file))
        self._end = 0
        self._starts: dict[int, int] = {}
        self._free: SimpleQueue[_Piece] = SimpleQueue()
        for _ in range(_PIECES):
            self._free.put(_Piece(self._runtime.Event()))

    def room(self, nbytes: int) -> Tensor:
        """Mapped bytes of the file; the system writes them there when it likes."""
        length = -(-nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            # A mapped page without a place on the disk would end the process with a signal.
            os.posix_fallocate(self._file.fileno(), self._end, length)
            mapped = mmap.mmap(self._file.fileno(), nbytes, offset=self._end)
        except OSError as error:
            raise self._trouble(error) from error
        blob = torch.frombuffer(mapped, dtype=torch.uint8)
        self._starts[blob.data_ptr()] = self._end
        self._end += length
        return blob

    def send(self, blob: Tensor, slot: Tensor, free: torch.Event) -> Arrival:
        start = self._starts[blob.data_ptr()]
        free.wait(self._copies)
        cuts = range(0, len(blob), PIECE)
        pieces = [(start + cut, slot[cut : min(cut + PIECE, len(blob))]) for cut in cuts]
        return Arrival([self._pool.submit(self._carry, offset, target) for offset, target in pieces])

    def _carry(self, offset: int, target: Tensor) -> torch.Event:
        """A piece's way from the file to the device; runs in a thread."""
        piece = self._free.get()
        try:
            piece.copied.synchronize()
            if piece.buffer is None:
                piece.buffer = host_empty((PIECE,), torch.uint8, self._device)
            source = piece.buffer[: len(target)]
            self._read(source, offset)
            with self._runtime.stream(self._copies):
                target.copy_(source, non_blocking=True)
                piece.copied = self._runtime.Event()
                piece.copied.record(self._copies)
            return piece.copied
        finally:
            self._free.put(piece)

    def _read(self, buffer: Tensor, offset: int) -> None:
        left = buffer.numpy().data
        while left:
            try:
                count = os.preadv(self._file.fileno(), [left], offset)
            except OSError as error:
                raise self._trouble(error) from error
            if not count:
                raise DeviceError(f"The streamed weights in {self._folder} must be whole; their file was cut short.")
            left, offset = left[count:], offset + count

    def _trouble(self, error: OSError) -> DeviceError:
        return DeviceError(
            f"Streamed weights must fit into a file in {self._folder}: {error.strerror or error}. "
            "Free space there, or choose another folder."
        )


class _Piece:
    """Pinned memory between the file and the device, made by the first thread that needs it."""

    def __init__(self, copied: torch.Event):
        self.buffer: Tensor | None = None
        self.copied = copied
        """The end of the last copy out of it."""


def _close(pool: ThreadPoolExecutor, file: BinaryIO) -> None:
    """Nothing is being read any more: whoever reads holds the tier. The last reader may be who runs this, so that it
    can't wait for the threads."""
    pool.shutdown(wait=False, cancel_futures=True)
    file.close()
