"""How the kernels' work is cut: tiles, parts of adapters, runs of a sum. Arithmetic on sizes only.

The figures were chosen among some two hundred combinations, for 2,048 and 8,192 tokens, on an H200.
"""

from functools import cache
from typing import NamedTuple

import torch

from .reference import Ranks

SMALLEST_PRODUCT = 16
"""Rows and columns that tensor cores multiply at least; from there on Triton wants powers of two."""
ROWS_OF_A_PART = 128
"""An adapter of more rows is cut, since the sums of more don't fit into registers."""
ROWS_AT_ONCE = 192
"""Rows of all parts that one program sums: q, k and v at rank 64."""
MOST_RUNS = 8


class Tile(NamedTuple):
    """What one program works on, and with what."""

    tokens: int
    columns: int
    warps: int
    stages: int
    """Tiles in flight."""
    registers: int | None = None
    """Most registers of a thread, where the compiler alone would take so many that too few programs fit."""


SUM = Tile(64, 64, 4, 3)
UP, UP_OF_MANY = Tile(64, 64, 4, 1), Tile(64, 64, 4, 1, registers=128)
UP_WITHOUT_DROPOUT, UP_OF_LARGE_RANK = Tile(64, 128, 8, 1), Tile(64, 128, 4, 1)


class Part(NamedTuple):
    """Rows of the stacked A that share a mask."""

    first: int
    rank: int
    stream: int
    """Added to the group's first stream."""


def batches(ranks: Ranks) -> list[list[Part]]:
    """The parts that one launch sums together; nearly always a single batch with a part for each adapter."""
    done: list[list[Part]] = []
    for stream, (first, rank) in enumerate(ranks):
        for start in range(0, rank, ROWS_OF_A_PART):
            part = Part(first + start, min(ROWS_OF_A_PART, rank - start), stream)
            if done and (len(done[-1]) + 1) * padded([*done[-1], part]) <= ROWS_AT_ONCE:
                done[-1].append(part)
            else:
                done.append([part])
    return done


def padded(parts: list[Part]) -> int:
    """The rows that the kernels give to each of ``parts``."""
    largest = max(part.rank for part in parts)
    return max(SMALLEST_PRODUCT, 1 << (largest - 1).bit_length())


def run_length(
    length: int, step: int, tiles: int, parts: list[Part], device: torch.device, runs: int | None = None
) -> int:
    """The length of a run, in whole ``step``s, if a sum over ``length`` is cut for each of ``tiles`` tiles.

    Into ``runs`` at most; or such that all programs run at once, two of them on a multiprocessor, or four small ones.
    """
    if runs is None:
        at_once = _multiprocessors(device) * (4 if len(parts) * padded(parts) < 128 else 2)
        runs = max(1, min(MOST_RUNS, round(at_once / tiles)))
    return -(-length // (runs * step)) * step


@cache
def _multiprocessors(device: torch.device) -> int:
    """One where Triton interprets, on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
