"""The optimizer state of some parameters in a few flat tensors, so that one operation updates them all.

A tensor of state per parameter would mean, for a small model's 420 adapter matrices, thousands of tiny operations a
step. Here the parameters' rows of 256 lie one after the other in each state tensor: blocks of the 8-bit state still
belong to one parameter only, and a slice of rows is what an operation, a page or a checkpoint takes.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from quatrain.device import host_empty
from quatrain.errors import CheckpointError
from quatrain.ops.adamw_8bit import adamw_8bit
from quatrain.ops.adamw_32bit import adamw_32bit
from quatrain.ops.adamw_32bit.rows import ROW, rows_of
from quatrain.optim.paging import PagedState, State

# State per page of paged state. 16 MiB travel for 0.3 ms, about what Python needs to start a page. With smaller pages
# the bus waits for Python; with larger ones the first and the last page, which nothing hides, take over (on an H200).
PAGE_BYTES = 16 << 20

_LAYOUT = {
    8: {
        "codes1": (torch.uint8, (ROW,)),
        "scales1": (torch.float32, ()),
        "codes2": (torch.uint8, (ROW,)),
        "scales2": (torch.float32, ()),
    },
    32: {"moment1": (torch.float32, (ROW,)), "moment2": (torch.float32, (ROW,))},
}
_OPERATION = {8: adamw_8bit, 32: adamw_32bit}


class Chunk(NamedTuple):
    """Neighbouring parameters that are updated together: they have gradients and have made equally many steps."""

    members: range
    rows: slice


class Arena:
    """State of ``bits`` bits for ``params`` (contiguous float32 tensors on one device).

    With ``paged`` it is made in host memory: the device never has room for all of it.
    """

    def __init__(self, params: Sequence[Tensor], bits: int, *, paged: bool = False) -> None:
        self.params = list(params)
        self.bits = bits
        self.steps = [0] * len(self.params)
        self._ends = list(accumulate(map(rows_of, self.params)))
        device = self.params[0].device
        make = host_empty if paged else torch.empty
        shapes = {name: ((self._ends[-1], *rest), dtype) for name, (dtype, rest) in _LAYOUT[bits].items()}
        tensors = {name: make(shape, dtype=dtype, device=device).zero_() for name, (shape, dtype) in shapes.items()}
        self.state = PagedState(tensors, device)
        if paged:
            self.state.start_on_host(self._slot_rows)

    def rows(self, member: int) -> slice:
        """The rows of parameter number ``member``."""
        return slice(self._ends[member] - rows_of(self.params[member]), self._ends[member])

    @property
    def page_rows(self) -> int:
        """Rows in a page, unless a parameter alone has more."""
        return PAGE_BYTES * self._ends[-1] // self.state.nbytes

    @property
    def _slot_rows(self) -> int:
        """Rows that a slot has room for."""
        return min(self._ends[-1], max(self.page_rows, *map(rows_of, self.params)))

    def page_out(self) -> None:
        self.state.page_out(self._slot_rows)

    def step(self, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        """Update every parameter that has a gradient; the others and their state stay as they are."""
        active = [i for i, p in enumerate(self.params) if p.grad is not None]
        for i in active:
            self.steps[i] += 1
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        limit = self._ends[-1] if self.state.resident else self.page_rows
        pages = [(chunk.rows, chunk.members) for chunk in self._chunks(active, limit)]
        self.state.update(pages, partial(self._apply, settings))

    def _apply(self, settings: dict, members: range, state: State) -> None:
        params = [self.params[i] for i in members]
        grads = [p.grad.contiguous() for p in params if p.grad is not None]
        _OPERATION[self.bits](params, grads, **state, step=self.steps[members[0]], **settings)

    def _chunks(self, active: list[int], max_rows: int) -> Iterator[Chunk]:
        """Split ``active`` where a parameter is left out, where step counts differ, and before passing ``max_rows``."""
        for _, run in groupby(enumerate(active), key=lambda pair: (pair[1] - pair[0], self.steps[pair[1]])):
            members = [i for _, i in run]
            first = members[0]
            for i in members[1:]:
                if self._ends[i] - self.rows(first).start > max_rows:
                    yield self._chunk(first, i)
                    first = i
            yield self._chunk(first, members[-1] + 1)

    def _chunk(self, first: int, stop: int) -> Chunk:
        return Chunk(range(first, stop), slice(self.rows(first).start, self._ends[stop - 1]))

    def save(self, member: int) -> dict[str, Tensor]:
        """Copies on the CPU of one parameter's state; ``step`` is an int64 scalar. Synchronize ``state`` first."""
        rows = self.rows(member)
        saved = {name: t[rows].to("cpu", copy=True) for name, t in self.state.tensors.items()}
        return {"step": torch.tensor(self.steps[member], device="cpu"), **saved}

    def load(self, member: int, saved: dict[str, Tensor]) -> None:
        """Take over what :meth:`save` returned. Raises CheckpointError if it belongs to another layout."""
        rows = self.rows(member)
        expected = {name: t[rows] for name, t in self.state.tensors.items()}
        fits = saved.keys() == expected.keys() | {"step"} and all(
            saved[name].shape == t.shape and saved[name].dtype == t.dtype for name, t in expected.items()
        )
        if not fits:
            raise CheckpointError(
                f"Saved optimizer state must match its parameter: {_describe(expected)} expected, {_describe(saved)} "
                "found. The adapters' shapes or state_bits changed since the checkpoint; restore them or start afresh."
            )
        for name, t in expected.items():
            t.copy_(saved[name])
        self.steps[member] = int(saved["step"])

    def clear(self, member: int) -> None:
        """Back to the state before the first step."""
        for t in self.state.tensors.values():
            t[self.rows(member)] = 0
        self.steps[member] = 0


def _describe(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in tensors.items())
