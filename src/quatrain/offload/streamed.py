"""Blocks whose 4-bit weights pass through the device: copied ahead of use into a few slots, and never written back.

    blobs (pinned host memory, disk) ─ copy engine ─► slots on the device ─► the block at work

Frozen weights are only read, so a slot is simply written over when its block is done. While one block computes, those
whose turn comes next are on their way; which those are, the caller says, since the backward goes the other way. The
blocks around a turn are still in their slots, so neither the first of the backward nor, with several micro-batches, the
first of the next forward wait.

A copy waits, on its own stream, until the work that was queued on the slot is done, and the block's work waits for the
copy; the host waits for neither. So streaming is free as long as a block computes for longer than its blob travels:
on a bus of 25 GB/s, from some 1,500 tokens a micro-batch.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from quatrain.errors import ConfigError
from quatrain.offload.blob import BlobLayout
from quatrain.offload.disk import DiskTier
from quatrain.offload.host import HostTier
from quatrain.offload.tier import Arrival, Tier
from quatrain.quantization import QuantizedModule, QuantizedTensor

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


@dataclass
class _Blob:
    """The weights of one block outside of the device."""

    tier: Tier
    bytes: Tensor
    layout: BlobLayout
    modules: Sequence[QuantizedModule]


@dataclass
class _Slot:
    """Device memory for a blob."""

    bytes: Tensor
    free: torch.Event
    """When the work that was last queued on it is done."""
    block: int | None = None
    """Whose blob it holds or is about to."""
    arrival: Arrival = field(default_factory=lambda: Arrival([]))


class StreamedWeights:
    """The streamed blocks of one model; a `WeightSource` of its stack."""

    def __init__(self, streaming: Streaming, device: torch.device):
        self.streaming, self.device = streaming, device
        self._runtime = torch.get_device_module(device)
        self._host = HostTier(device)
        folder = streaming.folder or Path(tempfile.gettempdir())
        self._disk = DiskTier(device, folder) if streaming.disk else None
        self._blobs: dict[int, _Blob] = {}
        self._slots: list[_Slot] = []
        self._at_work: _Slot | None = None

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
        self._blobs[index] = _Blob(tier, room, layout, modules)
        self._slots = []

    def settle(self) -> None:
        """Wait until all blobs hold what was put into them."""
        self._runtime.synchronize(self.device)

    def hand(self, index: int, ahead: Iterable[int]) -> Mapping[nn.Module, QuantizedTensor]:
        """The weights of block `index` on the device; empty for a resident one. See `WeightSource`."""
        compute = self._runtime.current_stream(self.device)
        if self._at_work is not None:
            self._at_work.free.record(compute)
            self._at_work = None
        wanted = list(islice(self._streamed(index, ahead), self.streaming.slots))
        for block in wanted:
            if all(slot.block != block for slot in self._all_slots()):
                self._send(block, next(slot for slot in self._slots if slot.block not in wanted))
        if index not in self._blobs:
            return {}
        self._at_work = next(slot for slot in self._slots if slot.block == index)
        self._at_work.arrival.wait(compute)
        blob = self._blobs[index]
        return dict(zip(blob.modules, blob.layout.weights(self._at_work.bytes), strict=True))

    def _streamed(self, index: int, ahead: Iterable[int]) -> Iterable[int]:
        """The streamed ones among this block and those ahead, in their order, each once."""
        seen = set()
        for block in (index, *ahead):
            if block in self._blobs and block not in seen:
                seen.add(block)
                yield block

    def _send(self, block: int, slot: _Slot) -> None:
        blob = self._blobs[block]
        slot.block, slot.arrival = block, blob.tier.send(blob.bytes, slot.bytes, slot.free)

    def _all_slots(self) -> list[_Slot]:
        """The slots, made when they are first needed: while a model loads, their memory has another use."""
        if not self._slots:
            nbytes = max(blob.layout.nbytes for blob in self._blobs.values())
            for _ in range(self.streaming.slots):
                slot = _Slot(torch.empty(nbytes, dtype=torch.uint8, device=self.device), self._runtime.Event())
                # The memory may have been given up a moment ago, with work still queued on it.
                slot.free.record(self._runtime.current_stream(self.device))
                self._slots.append(slot)
        return self._slots


def evenly(streamed: int, blocks: int) -> tuple[int, ...]:
    """Which `streamed` of `blocks` blocks to stream so that the bus has the resident ones' time as well: spread out."""
    return tuple(sorted({(2 * i + 1) * blocks // (2 * streamed) for i in range(streamed)}))
