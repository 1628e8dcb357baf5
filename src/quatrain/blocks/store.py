"""Where kept tensors are between a block's forward and its backward, as its policy says.

What is offloaded leaves through one stream while the next block computes and comes back through another before its own
backward, into pinned host memory that is allocated once and used in every step. The bus is full duplex and its copies
cost concurrent matrix products next to nothing, so as long as a block computes for longer than its tensors travel, all
of it is free.

Two blocks' tensors at most are on their way out: the compute stream waits for the one before, because memory that is
still being copied can't be used again, and a forward that runs ahead of the bus would keep everything after all. In the
backward the tensors of one block are fetched while the block above it computes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from quatrain.blocks.kept import GROUP_MEMBERS, Kept
from quatrain.blocks.policy import GROUPS, Policy

_IN_FLIGHT = 2


@dataclass
class _Trip:
    """The offloaded tensors of one block."""

    host: dict[str, Tensor] = field(default_factory=dict)
    """Their pinned memory, used again in every step."""
    left: torch.Event | None = None
    """While they are away: when they had left."""
    back: dict[str, Tensor] = field(default_factory=dict)
    """On their way back, and until somebody takes them."""
    returned: torch.Event | None = None
    """When they are back."""


class ActivationStore:
    """Kept tensors of all blocks of a model on `device`. On the CPU, host and device are one: nothing is offloaded."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._device = device
        self._out = torch.cuda.Stream(device) if self._cuda else None
        self._in = torch.cuda.Stream(device) if self._cuda else None
        self._kept: dict[int, Kept] = {}
        self._trips: dict[int, _Trip] = {}

    def put(self, index: int, kept: Kept, policy: Policy) -> None:
        """Take over what block `index` has made: keep it, send it off, or forget it."""
        for group in GROUPS:
            if not policy.kept(group):
                kept.drop(group)
        self._kept[index] = kept
        if policy.offloads and self._cuda:
            self._send(index, kept, policy)

    def get(self, index: int) -> Kept:
        """What is there of block `index`, all of it on the device; it belongs to the caller."""
        kept = self._kept.pop(index)
        self.fetch(index)
        trip = self._trips.get(index)
        if trip is not None and trip.returned is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(trip.returned)
            for name, tensor in trip.back.items():
                tensor.record_stream(stream)
                setattr(kept, name, tensor)
            trip.back, trip.returned = {}, None
        return kept

    def fetch(self, index: int) -> None:
        """Start bringing block `index` back, if it is away and not on its way."""
        trip = self._trips.get(index)
        if trip is None or trip.left is None:
            return
        assert self._in is not None
        self._in.wait_event(trip.left)
        # The memory that the tensors come back to must have been given up by the work queued so far.
        self._in.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._in):
            trip.back = {name: tensor.to(self._device, non_blocking=True) for name, tensor in trip.host.items()}
            trip.returned = self._in.record_event()
        trip.left = None

    def _send(self, index: int, kept: Kept, policy: Policy) -> None:
        assert self._out is not None
        stream = torch.cuda.current_stream(self._device)
        earlier = self._trips.get(index - _IN_FLIGHT)
        if earlier is not None and earlier.left is not None:
            stream.wait_event(earlier.left)
        trip = self._trips.setdefault(index, _Trip())
        self._out.wait_stream(stream)
        with torch.cuda.stream(self._out):
            for name, tensor in _offloaded(kept, policy).items():
                _room(trip.host, name, tensor).copy_(tensor, non_blocking=True)
                tensor.record_stream(self._out)
                setattr(kept, name, None)
            trip.left = self._out.record_event()


def _offloaded(kept: Kept, policy: Policy) -> dict[str, Tensor]:
    """The tensors that leave, by name."""
    there = kept.tensors()
    leaving = [name for group in GROUPS if getattr(policy, group) == "offload" for name in GROUP_MEMBERS[group]]
    return {name: there[name] for name in leaving if name in there}


def _room(host: dict[str, Tensor], name: str, tensor: Tensor) -> Tensor:
    """Pinned memory for `tensor`, kept from step to step."""
    room = host.get(name)
    if room is None or room.shape != tensor.shape:
        room = host[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return room
