"""Blocks whose 4-bit weights pass through the device: copied ahead of use into a few slots, and never written back.

    blobs (pinned host memory, disk) ─ copy engine ─► slots on the device ─► the block at work

Frozen weights are only read, so a slot is simply written over when its block is done. While one block computes, those
whose turn comes next are on their way; which those are, the caller says, since the backward goes the other way. The
blocks around a turn are still in their slots, so neither the first of the backward nor, with several micro-batches, the
first of the next forward wait.

Copies and work wait for one another on the device, never on the host (`ring.py`). So streaming is free as long as a
block computes for longer than its blob travels. A parameter is half a byte and two operations a token, so that takes as
many tokens as a quarter of the card's FLOP/s over the bus's bytes/s: 1,500 for 150 TFLOP/s and 25 GB/s.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from quatrain.errors import ConfigError
from quatrain.offload.blob import BlobLayout
from quatrain.offload.disk import DiskTier
from quatrain.offload.host import HostTier
from quatrain.offload.ring import Blob, Handed, Ring
from quatrain.quantization import QuantizedModule

FEWEST_SLOTS = 2
"""One for the block at work, one for the next on its way."""


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """Which blocks are streamed, and through how much of the device."""

    host: tuple[int, ...] = ()
    """Blocks whose weights lie in pinned host memory."""
    disk: tuple[int, ...] = ()
    """Blocks whose weights lie in a file."""
    slots: int = FEWEST_SLOTS
    """Blobs that the device has room for: the one at work, and those on their way."""
    folder: Path | None = None
    """Where the file lies; None: where the system keeps temporary files, which may be in its memory."""

    def __post_init__(self) -> None:
        if self.slots < FEWEST_SLOTS:
            raise ConfigError(f"Streaming takes at least {FEWEST_SLOTS} slots, got {self.slots}.")
        if twice := set(self.host) & set(self.disk):
            raise ConfigError(f"A block's weights are on the host or on disk, not both; block {min(twice)} is.")


class StreamedWeights:
    """The streamed blocks of one model; a `WeightSource` of its stack."""

    def __init__(self, streaming: Streaming, device: torch.device):
        self.streaming, self.device = streaming, device
        self._runtime = torch.get_device_module(device)
        self._host = HostTier(device)
        folder = streaming.folder or Path(tempfile.gettempdir())
        self._disk = DiskTier(device, folder) if streaming.disk else None
        self._blobs: dict[int, Blob] = {}
        self._resident: dict[int, Handed] = {}
        self._ring: Ring | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all blobs."""
        return sum(len(blob.bytes) for blob in self._blobs.values())

    def wants(self, index: int) -> bool:
        """Whether block `index` is to be streamed and isn't yet."""
        return index in (*self.streaming.host, *self.streaming.disk) and index not in self._blobs

    def take(self, index: int, modules: Sequence[QuantizedModule]) -> None:
        """Move the weights of a block's `modules` from where they are into a blob, where the modules find them.

        Copies from a GPU may still be under way on return; the host must not read the weights before `settle`.

        Raises:
            DeviceError: there is no room on the host or on the disk.
        """
        tier = self._host if index in self.streaming.host else self._disk
        assert tier is not None
        weights = [module.quantized for module in modules]
        layout = BlobLayout(weights)
        room = tier.room(layout.nbytes)
        for module, weight in zip(modules, layout.write(weights, room), strict=True):
            module.lodge(weight)
        self._blobs[index] = Blob(tier, room, layout, modules)
        self._ring = None

    def settle(self) -> None:
        """Wait until all blobs hold what was put into them."""
        self._runtime.synchronize(self.device)

    def reside(self, blocks: Iterable[int]) -> None:
        """Keep a copy of these blocks' blobs on the device, so that they aren't streamed; of no others."""
        self._resident = {block: handed for block, handed in self._resident.items() if block in set(blocks)}
        for block in blocks:
            if block not in self._resident:
                blob = self._blobs[block]
                self._resident[block] = blob.weights_in(blob.bytes.to(self.device, copy=True))

    def forget(self) -> None:
        """Let go of what is on the device, for when blobs were written to; it is copied anew."""
        self._ring = None
        resident, self._resident = list(self._resident), {}
        self.reside(resident)

    def hand(self, index: int, ahead: Iterable[int]) -> Handed:
        """The weights of block `index` on the device; empty for one that was never taken. See `WeightSource`."""
        if self._ring is not None:
            self._ring.give_back()
        if wanted := list(islice(self._streamed(index, ahead), self.streaming.slots)):
            self._made_ring().send_for(wanted, self._blobs)
        if index in self._resident:
            return self._resident[index]
        return self._made_ring().take(index, self._blobs[index]) if index in self._blobs else {}

    def _streamed(self, index: int, ahead: Iterable[int]) -> Iterator[int]:
        """The streamed ones among this block and those ahead, in their order, each once."""
        seen = set()
        for block in (index, *ahead):
            if block in self._blobs and block not in self._resident and block not in seen:
                seen.add(block)
                yield block

    def _made_ring(self) -> Ring:
        """The slots, made when they are first needed: while a model loads, their memory has another use."""
        if self._ring is None:
            nbytes = max((blob.layout.nbytes for blob in self._blobs.values()), default=0)
            self._ring = Ring(self.device, self.streaming.slots, nbytes)
        return self._ring
