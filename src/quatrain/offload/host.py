"""Blobs in pinned host memory: the tier that a GPU fetches from at the full speed of the bus."""

import torch
from torch import Tensor

from quatrain.device import host_empty
from quatrain.offload.tier import Arrival


class HostTier:
    """Blobs on the host, copied to `device` on a stream of their own."""

    def __init__(self, device: torch.device):
        self._device = device
        self._runtime = torch.get_device_module(device)
        self._copies = self._runtime.Stream(device)

    def room(self, nbytes: int) -> Tensor:
        return host_empty((nbytes,), torch.uint8, self._device)

    def send(self, blob: Tensor, slot: Tensor, free: torch.Event) -> Arrival:
        free.wait(self._copies)
        with self._runtime.stream(self._copies):
            slot[: len(blob)].copy_(blob, non_blocking=True)
            arrived = self._runtime.Event()
            arrived.record(self._copies)
        return Arrival([arrived])
