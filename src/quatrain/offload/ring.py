"""The device memory that blobs pass through: slots, written over again and again.

A copy into a slot waits, on its own stream, until the work that was queued on the slot's last blob is done, and whoever
takes a blob makes its own stream wait for the copy. The host waits for neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quatrain.offload.blob import BlobLayout
from quatrain.offload.tier import Arrival, Tier
from quatrain.quantization import QuantizedModule, QuantizedTensor

Handed = Mapping[nn.Module, QuantizedTensor]


class Blob(NamedTuple):
    """The weights of one block outside of the device."""

    tier: Tier
    bytes: Tensor
    layout: BlobLayout
    modules: Sequence[QuantizedModule]

    def weights_in(self, memory: Tensor) -> Handed:
        """The weights by their modules, as views of `memory`, which holds the blob or will."""
        return dict(zip(self.modules, self.layout.weights(memory), strict=True))


@dataclass
class _Slot:
    """Device memory for a blob."""

    bytes: Tensor
    free: torch.Event
    """When the work that was last queued on it is done."""
    block: int | None = None
    """Whose blob it holds or is about to."""
    arrival: Arrival = field(default_factory=lambda: Arrival([]))
    untouched: bool = False
    """Nobody has taken the blob since it was sent for."""
    views: dict[int, Handed] = field(default_factory=dict)
    """Weights in here by block: made once, because making some thirty views takes Python longer than
    asking for a product."""


class Ring:
    """`slots` slots of `nbytes` bytes on `device`."""

    def __init__(self, device: torch.device, slots: int, nbytes: int):
        self._device = device
        self._runtime = torch.get_device_module(device)
        made = [torch.empty(nbytes, dtype=torch.uint8, device=device) for _ in range(slots)]
        self._slots = [_Slot(memory, self._runtime.Event()) for memory in made]
        for slot in self._slots:
            # The memory may have been given up a moment ago, with work still queued on it.
            slot.free.record(self._compute)
        self._taken: _Slot | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def send_for(self, wanted: Sequence[int], blobs: Mapping[int, Blob]) -> None:
        """Let the blobs of the blocks `wanted`, at most as many as there are slots, set out if they aren't here."""
        for block in wanted:
            if all(slot.block != block for slot in self._slots):
                self._send(block, blobs[block], next(slot for slot in self._slots if slot.block not in wanted))

    def take(self, block: int, blob: Blob) -> Handed:
        """The weights of a block that was sent for, for work that is queued before `give_back`."""
        slot = self._taken = next(slot for slot in self._slots if slot.block == block)
        slot.arrival.wait(self._compute)
        slot.untouched = False
        if block not in slot.views:
            slot.views[block] = blob.weights_in(slot.bytes)
        return slot.views[block]

    def give_back(self) -> None:
        """All work on the blob that was taken last, if one was, is queued."""
        if self._taken is not None:
            self._taken.free.record(self._compute)
            self._taken = None

    def _send(self, block: int, blob: Blob, slot: _Slot) -> None:
        if slot.untouched:
            # What was on its way for nothing must not arrive behind what comes instead.
            slot.arrival.wait(self._compute)
            slot.free.record(self._compute)
        slot.block, slot.untouched = block, True
        slot.arrival = blob.tier.send(blob.bytes, slot.bytes, slot.free)

    @property
    def _compute(self) -> torch.Stream:
        return self._runtime.current_stream(self._device)
