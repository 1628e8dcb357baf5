"""Optimizer state that lives in host memory when the GPU is short, and passes through it page by page.

A step needs each byte of state once, so state can stay in pinned host memory and visit the GPU only for its update.
Three lanes run at once: one stream copies the next page in, the current stream updates this page, another stream copies
the last page out. Each page has a slot, a set of device buffers that is used again once its contents are back on the
host; events, not waits of the host, keep the lanes in order. Pages hold whole parameters, so paging changes no number.

CUDA's managed memory would move pages by itself, but it faults on first touch, picks the moment and the granularity,
and can't be planned for; explicit copies run at the bus's full speed behind the update before them.

Without a GPU "host" and "device" are the same memory, and the same loop runs with streams that do nothing.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from quatrain.device import host_empty

# One slot fills while one updates and one drains. With two, filling would wait for draining, and the bus would carry
# data in one direction at a time.
SLOTS = 3

Page = TypeVar("Page")
State = dict[str, Tensor]


class PagedState:
    """Named state tensors that share their first dimension (rows), at home on ``device`` or in host memory."""

    def __init__(self, tensors: State, device: torch.device) -> None:
        self.tensors = tensors
        self.device = device
        self.resident = True
        self._slots: list[_Slot] = []
        self._runtime = torch.get_device_module(device)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    def page_out(self, page_rows: int) -> None:
        """Move to host memory; each later update passes through slots of ``page_rows`` rows. Waits for the device."""
        if not self.resident:
            return
        hosts = {n: host_empty(tuple(t.shape), t.dtype, self.device) for n, t in self.tensors.items()}
        for name, host in hosts.items():
            host.copy_(self.tensors[name])
        self.tensors = hosts
        self.start_on_host(page_rows)

    def start_on_host(self, page_rows: int) -> None:
        """Take ``tensors`` for what they are if they were made in host memory: away from the device from the start."""
        self.resident = False
        self._slots = [_Slot(self.tensors, page_rows, self.device) for _ in range(SLOTS)]
        self._filling, self._draining = self._runtime.Stream(), self._runtime.Stream()

    def page_in(self) -> None:
        """Move back to the device and give up the slots."""
        if self.resident:
            return
        self.synchronize()
        self.tensors = {name: t.to(self.device, copy=True) for name, t in self.tensors.items()}
        self.resident, self._slots = True, []

    def synchronize(self) -> None:
        """Wait until the last update has reached ``tensors``; needed before the host reads or writes them."""
        for slot in self._slots:
            slot.drained.synchronize()

    def update(self, pages: Sequence[tuple[slice, Page]], apply: Callable[[Page, State], None]) -> None:
        """Call ``apply(page, state)`` for each (rows, page); what it writes into ``state`` becomes the rows' new state.

        Resident state is handed out as it is. Paged state is handed out in a slot; nothing here waits on the host.
        """
        if self.resident:
            for rows, page in pages:
                apply(page, {name: t[rows] for name, t in self.tensors.items()})
            return
        compute = self._runtime.current_stream(self.device)
        self._filling.wait_stream(self._draining)  # the last update's rows must be home before they are read again
        for i, (rows, page) in enumerate(pages):
            slot = self._slots[i % SLOTS]
            home = {name: t[rows] for name, t in self.tensors.items()}
            with self._runtime.stream(self._filling):
                slot.drained.wait(self._filling)
                state = slot.fill(home)
                slot.filled.record(self._filling)
            slot.filled.wait(compute)
            apply(page, state)
            slot.updated.record(compute)
            with self._runtime.stream(self._draining):
                slot.updated.wait(self._draining)
                for name, t in home.items():
                    t.copy_(state[name], non_blocking=True)
                slot.drained.record(self._draining)


class _Slot:
    """Device buffers for one page, and the three moments that the lanes wait for."""

    def __init__(self, tensors: State, rows: int, device: torch.device) -> None:
        self.buffers = {n: torch.empty((rows, *t.shape[1:]), dtype=t.dtype, device=device) for n, t in tensors.items()}
        runtime = torch.get_device_module(device)
        self.filled, self.updated, self.drained = runtime.Event(), runtime.Event(), runtime.Event()
        # The buffers may be memory that the current stream has only just finished with.
        self.drained.record(runtime.current_stream(device))

    def fill(self, home: State) -> State:
        """Start copying ``home`` into the first rows of the buffers, and return those."""
        state = {name: self.buffers[name][: len(t)] for name, t in home.items()}
        for name, t in home.items():
            state[name].copy_(t, non_blocking=True)
        return state
