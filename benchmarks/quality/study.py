"""Works off cells in a few processes on every device, the most important first, each recorded as it ends.

A process measures many cells, since its start (imports, texts, a CUDA context, kernels) costs as much as several. A few
processes on each GPU hide loading and quantizing behind each other's steps; more gain nothing, as kernels of different
processes take turns there (LOG.md: twelve did 45 steps a second where one does 50, read by hand). Cells whose time is a
result have the first device for themselves, before all others.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from benchmarks.quality.cell import Cell, OutOfTime, Where
from benchmarks.quality.results import Book

_CRASHES = 3
"""Processes that may die before a study gives up."""


@dataclass
class _Lane:
    """A device and its processes."""

    device: torch.device
    slots: int
    pool: Executor
    running: list[Cell] = field(default_factory=list)


class _Given(NamedTuple):
    cell: Cell
    lane: _Lane


class Study:
    """The processes of one call of the program; a context. They start at once, while the caller gets the base ready.

    Args:
        book: where cells are recorded.
        devices: to work on.
        slots: processes on each; with one device and one slot the cells are measured in this process.
        say: told about every cell.
    """

    def __init__(self, book: Book, devices: Sequence[torch.device], slots: int, say: Callable[[str], None]):
        self._book, self._say, self._began = book, say, time.time()
        self._alone = len(devices) * slots == 1
        self._lanes = [_Lane(device, slots, self._pool(slots)) for device in devices]
        self._running: dict[Future[tuple[dict[str, Any], float]], _Given] = {}
        self._handed_out: set[str] = set()
        self._crashes = 0
        self.failed: list[str] = []

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes:
            lane.pool.shutdown(cancel_futures=True)

    def measure(self, wanted: Callable[[], Sequence[Cell]], where: Where) -> None:
        """Measures the cells that `wanted` names, the first ones first, until there are none or the deadline comes. It
        is asked anew after each cell, since what is found decides what else is needed."""
        while True:
            if time.time() < where.deadline and self._crashes < _CRASHES:
                self._hand_out(wanted(), where)
            if not self._running:
                return
            for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                given = self._running.pop(future)
                given.lane.running.remove(given.cell)
                self._record(given, future)

    def _hand_out(self, cells: Sequence[Cell], where: Where) -> None:
        left = [cell for cell in cells if cell.key not in self._handed_out]
        for lane in self._lanes:
            while cell := self._next(lane, left):
                left.remove(cell)
                lane.running.append(cell)
                self._handed_out.add(cell.key)
                self._running[lane.pool.submit(measure, cell, replace(where, device=lane.device))] = _Given(cell, lane)

    def _next(self, lane: _Lane, left: Sequence[Cell]) -> Cell | None:
        timed = [cell for cell in left if cell.alone]
        if lane is self._lanes[0] and (timed or any(cell.alone for cell in lane.running)):
            return timed[0] if timed and not lane.running else None
        free = len(lane.running) < lane.slots
        return next((cell for cell in left if not cell.alone), None) if free else None

    def _record(self, given: _Given, future: "Future[tuple[dict[str, Any], float]]") -> None:
        cell, lane = given
        error, name = future.exception(), f"[{time.time() - self._began:.0f} s] {cell.table}: {described(cell)}"
        if isinstance(error, BrokenExecutor):
            # Its process died, or another one did while it waited.
            self._handed_out.discard(cell.key)
            if not lane.running:
                self._crashes += 1
                lane.pool = self._pool(lane.slots)
        elif isinstance(error, OutOfTime):
            return
        elif error is not None:
            self.failed.append(f"{name}: {type(error).__name__}: {error}")
            self._say(self.failed[-1])
        else:
            measured, seconds = future.result()
            self._book.add(cell, measured)
            told = {k: measured[k] for k in ("loss", "step_ms", "gsm8k_perplexity", "number_match") if k in measured}
            self._say(f"{name}: {', '.join(f'{k} {v:.5g}' for k, v in told.items())} ({seconds:.1f} s)")

    def _pool(self, slots: int) -> Executor:
        if self._alone:
            return ThreadPoolExecutor(1)
        pool = ProcessPoolExecutor(slots, multiprocessing.get_context("spawn"))
        for _ in range(slots):
            pool.submit(prepare)
        return pool


def measure(cell: Cell, where: Where) -> tuple[dict[str, Any], float]:
    """What the cell's measure finds, and the seconds that it took. Runs in a worker."""
    from benchmarks.quality import four_bits, training

    began = time.time()
    if began > where.deadline:
        raise OutOfTime
    if where.device.type == "cuda":
        torch.cuda.set_device(where.device)
    module = {"four_bits": four_bits, "training": training}[cell.measure]
    return module.measure(dict(cell.settings), where), time.time() - began


def prepare() -> None:
    """Imports what cells need."""
    import benchmarks.quality.four_bits
    import benchmarks.quality.training  # noqa: F401


def described(cell: Cell) -> str:
    """The settings that tell a cell from its neighbours."""
    names = ("task", "method", "quantization", "double_quant", "block_size", "targets", "r", "start", "optimizer")
    shown = [str(cell.settings[name]) for name in (*names, "learning_rate", "steps", "seed") if name in cell.settings]
    return " ".join(shown)
