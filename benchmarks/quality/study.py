"""Works off cells in a few processes that share the devices, the tables' first cells first, each recorded as it ends.

A process measures many cells, since its start (imports, texts, a CUDA context, kernels) costs as much as several. A few
processes on each GPU hide loading and quantizing behind each other's steps; more gain nothing, as kernels of different
processes take turns there (twelve did 45 steps a second where one does 50). Cells whose time is a result run one at a
time, while the other processes are still starting.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import torch

from benchmarks.quality.cell import Cell, OutOfTime, Where
from benchmarks.quality.results import Book

_CRASHES = 3
"""Processes that may die before a study gives up."""
_device: torch.device | None = None
"""Of this process, if it is one of several."""


class Study:
    """The processes of one call of the program; a context.

    Args:
        book: where cells are recorded.
        where: what all cells share.
        devices: each process works on one of them, the first on the first and so on in turn.
        workers: processes; with 1 the cells are measured in this one.
        say: told about every cell.
    """

    def __init__(
        self, book: Book, where: Where, devices: Sequence[torch.device], workers: int, say: Callable[[str], None]
    ):
        self._book, self._where, self._devices, self._workers, self._say = book, where, devices, workers, say
        self._crashes, self._began = 0, time.time()
        self.failed: list[str] = []
        self._pool = self._new_pool()

    def __enter__(self) -> "Study":
        for _ in range(self._workers - 1):
            self._pool.submit(prepare, self._where)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def measure(self, cells: Iterable[Cell]) -> None:
        """All of `cells` that aren't in the book, until the deadline; those that measure time first, one by one."""
        left = [cell for cell in cells if not self._book.has(cell)]
        for cell in left:
            if cell.alone:
                self._work_off([cell])
        self._work_off([cell for cell in left if not cell.alone])

    def _work_off(self, cells: Sequence[Cell]) -> None:
        while cells and self._crashes < _CRASHES:
            futures = {self._pool.submit(measure, cell, self._where): cell for cell in cells}
            broken = [futures[f] for f in as_completed(futures) if not self._record(futures[f], f)]
            if broken:
                self._crashes += 1
                self._pool = self._new_pool()
            cells = broken

    def _record(self, cell: Cell, future: "Future[tuple[dict[str, Any], float]]") -> bool:
        """False: the cell's process died, or another's did while it waited."""
        error, name = future.exception(), f"[{time.time() - self._began:.0f} s] {cell.table}: {described(cell)}"
        if isinstance(error, BrokenExecutor):
            return False
        if isinstance(error, OutOfTime):
            return True
        if error is not None:
            self.failed.append(f"{name}: {type(error).__name__}: {error}")
            self._say(self.failed[-1])
            return True
        measured, seconds = future.result()
        self._book.add(cell, measured)
        told = {k: measured[k] for k in ("loss", "step_ms", "gsm8k_perplexity", "number_match") if k in measured}
        self._say(f"{name}: {', '.join(f'{k} {v:.5g}' for k, v in told.items())} ({seconds:.1f} s)")
        return True

    def _new_pool(self) -> Executor:
        if self._workers == 1:
            return ThreadPoolExecutor(1)
        context = multiprocessing.get_context("spawn")
        devices = context.Queue()
        for device in islice(cycle(self._devices), self._workers):
            devices.put(device)
        return ProcessPoolExecutor(self._workers, context, begin, (devices,))


def begin(devices: Any) -> None:
    """Takes this process' device from the queue."""
    global _device
    mine: torch.device = devices.get()
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    _device = mine


def measure(cell: Cell, where: Where) -> tuple[dict[str, Any], float]:
    """What the cell's measure finds, and the seconds that it took. Runs in a worker."""
    from benchmarks.quality import four_bits, training

    began = time.time()
    if began > where.deadline:
        raise OutOfTime
    module = {"four_bits": four_bits, "training": training}[cell.measure]
    return module.measure(dict(cell.settings), replace(where, device=_device or where.device)), time.time() - began


def prepare(where: Where) -> None:
    """What takes a process long before its first cell: it is done by the others while the first is measured."""
    import benchmarks.quality.four_bits
    import benchmarks.quality.training  # noqa: F401
    from benchmarks.quality.tasks import SPLITS, TASKS, samples_of

    for task in TASKS:
        for split in SPLITS:
            samples_of(task, split, where.data[task], where.model)


def described(cell: Cell) -> str:
    """The settings that tell a cell from its neighbours."""
    names = ("task", "method", "quantization", "double_quant", "block_size", "targets", "r", "start", "optimizer")
    shown = [str(cell.settings[name]) for name in (*names, "learning_rate", "steps", "seed") if name in cell.settings]
    return " ".join(shown)
