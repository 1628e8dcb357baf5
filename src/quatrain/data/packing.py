"""Chooses which samples share a micro-batch, so that almost no room is left over.

Samples come in random order, and each goes to the open micro-batch that it fills best (online best fit). Sorting by
length first (best-fit decreasing) packs a little tighter, but then a micro-batch holds samples of one length, its
gradient leans towards that kind, and the same samples meet in every epoch. In random order the waste of best fit
grows only with the square root of the number of samples (Shor, "The average-case analysis of some on-line algorithms
for bin packing", 1986).
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

import numpy as np


def pack(lengths: np.ndarray, order: Iterable[int], capacity: int) -> list[list[int]]:
    """Groups all samples of ``order`` so that no group has more than ``capacity`` tokens.

    Args:
        lengths: tokens of each sample, none above ``capacity``.
        order: sample indices, in the order in which they are placed.
        capacity: the most tokens of a group.
    """
    groups: list[list[int]] = []
    shortest = int(lengths.min()) if len(lengths) else 0
    rooms: list[int] = []  # the distinct amounts of room that are left somewhere, sorted
    open_groups: dict[int, list[int]] = {}  # room left → the groups that have it
    for sample in order:
        length = int(lengths[sample])
        place = bisect_left(rooms, length)
        if place == len(rooms):
            group, room = len(groups), capacity
            groups.append([])
        else:
            room = rooms[place]
            group = open_groups[room].pop()
            if not open_groups[room]:
                del open_groups[room], rooms[place]
        groups[group].append(sample)
        if room - length >= shortest:
            if room - length not in open_groups:
                insort(rooms, room - length)
            open_groups.setdefault(room - length, []).append(group)
    return groups


def epoch_rng(seed: int, epoch: int) -> np.random.Generator:
    """The random numbers of one epoch: the same for the same seed and epoch, whatever was drawn before."""
    return np.random.default_rng([seed, epoch])


def packed_epoch(lengths: np.ndarray, capacity: int, seed: int, epoch: int) -> list[list[int]]:
    """The epoch's micro-batches of packed samples, in random order."""
    rng = epoch_rng(seed, epoch)
    groups = pack(lengths, rng.permutation(len(lengths)).tolist(), capacity)
    # The groups opened last are the emptiest; shuffled, they aren't always the end of the epoch.
    return [groups[i] for i in rng.permutation(len(groups))]


def padded_epoch(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The epoch's micro-batches of ``batch_size`` samples each (the last may have fewer), in random order."""
    order = epoch_rng(seed, epoch).permutation(len(lengths)).tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
