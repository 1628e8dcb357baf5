"""Where kept tensors are between a block's forward and its backward, as its policy says.

What is offloaded leaves through one stream while the next block computes and comes back through another before its own
backward, into pinned host memory that is allocated once and used in every step. The bus is full duplex and its copies
cost concurrent matrix products next to nothing, so as long as a block computes for longer than its tensors travel, all
of it is free.

One block's tensors at most are on their way out, and one's on their way back: where the bus keeps up that is enough,
and where it doesn't a second block behind the first would only wait longer. The host queues work far ahead of the GPU,
so what bounds memory is the order on the compute stream: it waits until a block's tensors have left before it lets go
of their memory, and gives the memory that they come back to. (Tensor.record_stream would let the host decide, which
sees that nothing has left yet, and takes new memory for every block.)
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from quatrain.blocks.kept import GROUP_MEMBERS, Kept
from quatrain.blocks.policy import GROUPS, Policy
from quatrain.device import host_empty


@dataclass(eq=False)
class _Trip:
    """The offloaded tensors of one block."""

    rooms: dict[str, Tensor] = field(default_factory=dict)
    """Flat pinned memory, used again in every step; a longer row may have left more of it than this one needs."""
    host: dict[str, Tensor] = field(default_factory=dict)
    """What has left, as views of that."""
    away: tuple[str, ...] = ()
    """Which tensors have left this time."""
    leaving: dict[str, Tensor] = field(default_factory=dict)
    """Until the compute stream has waited for them to leave."""
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
        self._leaving: _Trip | None = None

    def put(self, index: int, kept: Kept, policy: Policy) -> None:
        """Take over what block `index` has made: keep it, send it off, or forget it."""
        kept.follow(policy)
        self._kept[index] = kept
        if policy.offloads and self._cuda:
            self._send(index, kept, policy)

    def get(self, index: int) -> Kept:
        """What is there of block `index`, all of it on the device; it belongs to the caller."""
        kept = self._kept.pop(index)
        self.fetch(index)
        trip = self._trips.get(index)
        if trip is not None and trip.returned is not None:
            torch.cuda.current_stream(self._device).wait_event(trip.returned)
            for name, tensor in trip.back.items():
                setattr(kept, name, tensor)
            trip.back, trip.returned = {}, None
        return kept

    def fetch(self, index: int) -> None:
        """Start bringing block `index` back, if it is away and not on its way."""
        trip = self._trips.get(index)
        if trip is None or trip.left is None:
            return
        if trip is self._leaving:  # The last to leave turns round at the door.
            self._leaving = None
            trip.back, trip.returned = trip.leaving, trip.left
            trip.leaving, trip.left = {}, None
            return
        assert self._in is not None
        trip.back = {name: torch.empty_like(trip.host[name], device=self._device) for name in trip.away}
        # The work queued so far gave this memory up.
        self._in.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._in):
            for name, tensor in trip.back.items():
                tensor.copy_(trip.host[name], non_blocking=True)
            trip.returned = self._in.record_event()
        trip.left = None

    def clear(self) -> None:
        """Forget all blocks, also what is on its way. Pinned memory stays for the next step."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        self._kept.clear()
        self._leaving = None
        for trip in self._trips.values():
            trip.leaving, trip.left, trip.back, trip.returned = {}, None, {}, None

    def _send(self, index: int, kept: Kept, policy: Policy) -> None:
        assert self._out is not None
        stream = torch.cuda.current_stream(self._device)
        earlier = self._leaving
        if earlier is not None:
            assert earlier.left is not None
            stream.wait_event(earlier.left)
            earlier.leaving = {}
        trip = self._trips.setdefault(index, _Trip())
        trip.leaving = _offloaded(kept, policy)
        trip.away = tuple(trip.leaving)
        self._out.wait_stream(stream)
        with torch.cuda.stream(self._out):
            for name, tensor in trip.leaving.items():
                _room(trip, name, tensor).copy_(tensor, non_blocking=True)
                setattr(kept, name, None)
            trip.left = self._out.record_event()
        self._leaving = trip


def _offloaded(kept: Kept, policy: Policy) -> dict[str, Tensor]:
    """The tensors that leave, by name."""
    there = kept.tensors()
    leaving = [name for group in GROUPS if getattr(policy, group) == "offload" for name in GROUP_MEMBERS[group]]
    return {name: there[name] for name in leaving if name in there}


def _room(trip: _Trip, name: str, tensor: Tensor) -> Tensor:
    """Pinned memory for `tensor`, kept from step to step."""
    flat = trip.rooms.get(name)
    if flat is None or flat.numel() < tensor.numel() or flat.dtype != tensor.dtype:
        # The old memory goes first: the host may not have room for both.
        trip.rooms.pop(name, None)
        trip.host.pop(name, None)
        flat = None
        flat = trip.rooms[name] = host_empty((tensor.numel(),), tensor.dtype, tensor.device)
    trip.host[name] = flat[: tensor.numel()].view(tensor.shape)
    return trip.host[name]
