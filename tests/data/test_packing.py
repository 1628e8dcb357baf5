"""Packing: every sample once an epoch, no group over its room, little room left, the same again for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.data.packing import pack, packed_epoch, padded_epoch

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=200).map(np.array)


@settings(deadline=None)
@given(lengths=LENGTHS, room=st.integers(50, 200), seed=st.integers(0, 2**32), epoch=st.integers(0, 100))
def test_every_sample_once_and_no_group_over_its_room(lengths, room, seed, epoch):
    groups = packed_epoch(lengths, room, seed, epoch)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(0 < sum(lengths[group]) <= room for group in groups)
    assert groups == packed_epoch(lengths, room, seed, epoch)
    # No two groups could have been one; any-fit algorithms keep this.
    totals = sorted(int(sum(lengths[group])) for group in groups)
    assert len(totals) < 2 or totals[0] + totals[1] > room


@given(lengths=LENGTHS, room=st.integers(50, 200))
def test_it_is_best_fit(lengths, room):
    """The same groups as the definition of best fit, spelled out slowly."""
    rooms, slow = [], []
    for sample, length in enumerate(lengths.tolist()):
        fitting = [left for left in rooms if left >= length]
        if not fitting:
            rooms.append(room)
            slow.append([])
            fitting = [room]
        # Among groups with the same room left, the one that was opened or filled last.
        slow_totals = [room - int(sum(lengths[group])) for group in slow]
        assert slow_totals == rooms
        rooms[rooms.index(min(fitting))] -= length
        slow[slow_totals.index(min(fitting))].append(sample)
    fast = pack(lengths, range(len(lengths)), room)
    assert sorted(sum(lengths[group]) for group in fast) == sorted(sum(lengths[group]) for group in slow)


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_lengths_like_real_ones_fill_well(spread):
    lengths = np.clip(np.random.default_rng(0).lognormal(5.3, spread, 8000), 10, 2048).astype(np.int64)
    groups = packed_epoch(lengths, 2048, 0, 0)
    assert lengths.sum() / (2048 * len(groups)) > 0.97


def test_epochs_and_seeds_differ():
    lengths = np.random.default_rng(0).integers(10, 400, 300)
    orders = [packed_epoch(lengths, 1024, *which) for which in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_padded_batches():
    batches = padded_epoch(np.ones(10), 4, 0, 0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(i for batch in batches for i in batch) == list(range(10))
