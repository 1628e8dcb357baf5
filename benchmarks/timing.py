"""Clocks: device events on a GPU, the host's clock on a CPU; and the peak of memory meanwhile.

A step is timed from an idle device to an idle device, so what the host spends between launches counts, as it does for a
user. A kernel is timed without the host: launches queue up behind a sleeping kernel, and buffers rotate, so that no
result stays in the second-level cache.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from benchmarks.case import Row
from quatrain.device import memory_in_use, reset_peak

_SLEEP_CYCLES = 20_000_000
"""Some 10 ms on a current GPU: the host has queued all launches by then."""


def step_ms(step: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, with everything that it started on the device."""
    if device.type == "cpu":
        began = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - began)
    torch.cuda.synchronize(device)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    step()
    torch.cuda.synchronize(device)  # work on other streams (paged state, copies to the host) belongs to the step
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def kernel_ms(
    launch: Callable[[int], object], *, rotation: int = 4, launches: int = 16, rounds: int = 7
) -> list[float]:
    """Milliseconds of one launch on the GPU, a figure a round; ``launch(i)`` uses the i-th set of buffers."""
    times = []
    for _ in range(rounds + 1):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_SLEEP_CYCLES)
        before.record()
        for i in range(launches):
            launch(i % rotation)
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / launches)
    return times[1:]  # the first round compiles and warms up


def release(device: torch.device) -> None:
    """Give back what dropped objects held, before the next model comes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def memory(row: Row, device: torch.device) -> Iterator[None]:
    """Writes into `row` the most memory that was allocated and reserved inside. What loading has left in the
    allocator's cache doesn't count: nothing inside needs it.
    """
    release(device)
    reset_peak(device)
    yield
    row.allocated_gib = memory_in_use(device).peak / 2**30
    if device.type == "cuda":
        row.reserved_gib = torch.cuda.max_memory_reserved(device) / 2**30


def summary(samples_ms: Sequence[float]) -> dict[str, float]:
    """Median, least, and the tenth and ninetieth percentiles of equal pieces of work, in milliseconds."""
    cuts = statistics.quantiles(samples_ms, n=10, method="inclusive") if len(samples_ms) > 1 else [samples_ms[0]] * 9
    figures = {
        "median": statistics.median(samples_ms),
        "min": min(samples_ms),
        "p10": cuts[0],
        "p90": cuts[-1],
    }
    return {name: float(f"{value:.6g}") for name, value in figures.items()} | {"count": len(samples_ms)}
