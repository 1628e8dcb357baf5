"""What every place outside of the device has in common that blobs are kept in."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

import torch
from torch import Tensor


class Arrival:
    """The end of a blob's way to the device: of all `parts`, copies that the device was asked for, or that a thread is
    to ask it for."""

    def __init__(self, parts: Sequence["torch.Event | Future[torch.Event]"]):
        self._parts = parts

    def wait(self, stream: torch.Stream) -> None:
        """Let `stream` wait for it; the host itself waits only for its threads.

        Raises whatever ended a thread.
        """
        for part in self._parts:
            event = part.result() if isinstance(part, Future) else part
            event.wait(stream)


class Tier(Protocol):
    """Keeps blobs and sends them to the device."""

    def room(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] of the host's address space to write a new blob into.

        Raises:
            DeviceError: there is none left.
        """
        ...

    def send(self, blob: Tensor, slot: Tensor, free: torch.Event) -> Arrival:
        """Begin to bring `blob`, made by `room`, into `slot` [at least as long] on the device, once `free` has happened
        there."""
        ...
