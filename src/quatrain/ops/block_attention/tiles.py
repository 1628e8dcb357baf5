"""How the Triton kernels cut a row into tiles, and how tiles get from memory to a processor and back.

On Hopper, tiles are moved by the tensor memory accelerator, which also pads them with zeros and frees the registers
that addresses take (189 instead of 255 of them in the forward). Elsewhere they are loaded through pointers.
"""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Move(IntEnum):
    """How tiles come and go."""

    BY_POINTERS = 0
    AS_MATRIX = 2
    """By the accelerator, as a piece of the matrix [T, heads · D]."""
    BY_HEAD = 3
    """By the accelerator, as a piece of [T, heads, D]; it fills up heads that are narrower than a tile."""


class Tiles(NamedTuple):
    """How a kernel cuts its work, and with how many warps and stages of its pipeline."""

    queries: int
    keys: int
    warps: int
    stages: int


class AllTiles(NamedTuple):
    """Those of the three kernels."""

    forward: Tiles
    query_gradient: Tiles
    key_gradient: Tiles


def tiles_for(q_TAD: Tensor, move: Move) -> AllTiles:
    """The fastest that fit, by measurement on an H200. Small programs share a processor and hide each other's waits."""
    if q_TAD.dtype == torch.float32:
        return AllTiles(*(Tiles(32, 32, 4, 1),) * 3)
    if move == Move.BY_POINTERS:
        return AllTiles(Tiles(64, 32, 4, 2), Tiles(64, 32, 4, 2), Tiles(32, 64, 8, 2))
    if q_TAD.shape[-1] <= 128:
        return AllTiles(Tiles(64, 64, 4, 3), Tiles(64, 64, 4, 3), Tiles(32, 64, 4, 2))
    return AllTiles(Tiles(64, 32, 4, 3), Tiles(64, 32, 8, 2), Tiles(64, 32, 8, 1))


def move_of(*tensors: Tensor) -> Move:
    """How tiles of these tensors are moved.

    Of the accelerator's two ways the second covers all heads, but where a tile's rows are at most 128 bytes Triton 3.6
    computes wrong results from it on an H200 (head sizes up to 64 in 16 bits), for a reason that isn't known.
    """
    x = tensors[0]
    size, padded = x.shape[-1], padded_size(x)
    aligned = all(t.data_ptr() % 16 == 0 and t.stride(0) * t.element_size() % 16 == 0 for t in tensors)
    if not aligned or not _has_accelerator(x):
        return Move.BY_POINTERS
    if padded * x.element_size() > 128:
        return Move.BY_HEAD
    side_by_side = size == padded and all(t.stride(1) == size for t in tensors)
    return Move.AS_MATRIX if side_by_side else Move.BY_POINTERS


def _has_accelerator(x: Tensor) -> bool:
    """Of the GPUs that have it, those on which Triton makes good use of it."""
    return x.is_cuda and torch.cuda.get_device_capability(x.device)[0] == 9


def padded_size(x_TAD: Tensor) -> int:
    """Columns of a tile: a power of two."""
    return max(16, 1 << (x_TAD.shape[-1] - 1).bit_length())
