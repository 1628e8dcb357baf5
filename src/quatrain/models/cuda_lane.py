"""A GPU as the target of `read_ahead`: copies on a stream of their own, ordered by events, never by waiting.

Bytes on the device belong to the caller's stream like any tensor's, so they can be kept, or freed and used again,
without further care. That memory may have been freed a moment ago, with its last readers still queued on the caller's
stream; so the copy stream waits for the caller's stream at each allocation. It never waits long: what is queued there
is the use of tensors that have landed already.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class CudaLane:
    """Copies to `device` beside the stream that is current now; see `quatrain.models.read_ahead.Lane`."""

    def __init__(self, device: torch.device):
        self._device = device
        self._caller = torch.cuda.current_stream(device)
        self._copies = torch.cuda.Stream(device)

    def buffer(self, nbytes: int) -> Tensor:
        with torch.cuda.device(self._device):
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def allocate(self, nbytes: int) -> Tensor:
        target = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        self._copies.wait_stream(self._caller)
        return target

    def copy(self, source: Tensor, target: Tensor) -> Callable[[], None]:
        # Blocking: a thread that waits for the bus sleeps, instead of taking a core from those that read.
        event = torch.cuda.Event(blocking=True)
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            event.record(self._copies)
        return event.synchronize

    def land(self) -> None:
        self._caller.wait_stream(self._copies)

    def close(self) -> None:
        self._copies.synchronize()
