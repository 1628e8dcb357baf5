"""Micro-batches hold exactly the samples' tokens and targets, and the loader's position is exact."""

import json
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.data import IGNORED, Loader, Sample, Samples
from quatrain.errors import CheckpointError, DataError

SETTINGS = {"max_length": 40, "batch_size": 3, "packing": True, "pad_token_id": 7, "seed": 5}


def random_samples(count: int, seed: int = 0) -> Samples:
    """Samples whose tokens are all different, so that a token tells where it came from."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 41, count)
    ids = np.split(np.arange(lengths.sum(), dtype=np.int32), np.cumsum(lengths)[:-1])
    return Samples(Sample(part, np.r_[False, rng.random(len(part) - 1) < 0.5]) for part in ids)


def naive_pairs(samples) -> list[tuple[int, int]]:
    """(token, the token to predict from it) for every learned token of every sample."""
    return sorted(
        (int(sample.input_ids[t - 1]), int(sample.input_ids[t]))
        for sample in samples
        for t in range(1, len(sample))
        if sample.supervised[t]
    )


def pairs(batches) -> list[tuple[int, int]]:
    return sorted(
        (int(token), int(target))
        for batch in batches
        for token, target in zip(batch.input_ids.flatten(), batch.targets.flatten(), strict=True)
        if target != IGNORED
    )


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 40), seed=st.integers(0, 9), packing=st.booleans(), batch_size=st.integers(1, 4))
def test_an_epoch_is_every_sample_once_with_its_own_targets(count, seed, packing, batch_size):
    samples = random_samples(count, seed)
    options = {**SETTINGS, "packing": packing, "batch_size": batch_size}
    batches = list(Loader(samples, **options).epoch(0))
    assert pairs(batches) == naive_pairs(samples)
    assert sum(batch.num_tokens for batch in batches) == samples.num_tokens
    assert sum(batch.num_supervised for batch in batches) == samples.num_supervised
    for batch in batches:
        assert batch.input_ids.numel() <= 40 * batch_size
        assert batch.input_ids.dtype == batch.targets.dtype == batch.position_ids.dtype == torch.int64
        assert batch.num_supervised == int((batch.targets != IGNORED).sum())


def test_packed_samples_have_their_own_positions_and_bounds():
    samples = random_samples(30)
    starts = {int(sample.input_ids[0]): sample for sample in samples}
    for batch in Loader(samples, **SETTINGS).epoch(0):
        assert batch.cu_seqlens is not None and batch.attention_mask is None
        assert batch.cu_seqlens.dtype == torch.int32
        bounds = batch.cu_seqlens.tolist()
        width = batch.input_ids.shape[1]
        assert bounds[0] == 0 and bounds[-1] == width
        assert width % 64 == 0 or width == SETTINGS["max_length"] * SETTINGS["batch_size"]
        filled = bounds.index(batch.num_tokens)
        assert (batch.targets[0, batch.num_tokens :] == IGNORED).all()
        for a, b in pairwise(bounds[filled:]):
            assert b - a <= batch.longest
            assert batch.position_ids[0, a:b].tolist() == list(range(b - a))
        bounds = bounds[: filled + 1]
        assert max(b - a for a, b in pairwise(bounds)) <= batch.longest
        for a, b in pairwise(bounds):
            sample = starts[int(batch.input_ids[0, a])]
            assert batch.input_ids[0, a:b].tolist() == sample.input_ids.tolist()
            assert batch.position_ids[0, a:b].tolist() == list(range(len(sample)))
            assert batch.targets[0, b - 1] == IGNORED


def test_rows_of_a_fixed_number_of_tokens():
    samples = random_samples(30)
    capacity = SETTINGS["max_length"] * SETTINGS["batch_size"]
    for chosen, expected in ((samples, capacity), (Samples([samples[0]]), 64)):
        loader = Loader(chosen, **SETTINGS, fixed_tokens=True)
        assert {batch.input_ids.shape[1] for batch in loader.epoch(0)} == {min(expected, capacity)}
    fixed, free = (Loader(samples, **SETTINGS, fixed_tokens=fixed) for fixed in (True, False))
    for one, other in zip(fixed.epoch(0), free.epoch(0), strict=True):
        assert one.input_ids[0, : one.num_tokens].tolist() == other.input_ids[0, : other.num_tokens].tolist()


def test_padding_is_masked_by_place_not_by_token():
    """Token 7 is the padding token and occurs, learned, within a sample."""
    full = Sample(np.array([1, 7, 7], np.int32), np.array([False, True, True]))
    short = Sample(np.array([2, 7], np.int32), np.array([False, True]))
    options = {**SETTINGS, "packing": False, "batch_size": 2, "max_length": 3, "pad_token_id": 7}
    (batch,) = Loader(Samples([full, short]), **options).epoch(0)
    long_row = int(batch.input_ids[0, 0] != 1)
    assert batch.input_ids[long_row].tolist() == [1, 7, 7]
    assert batch.input_ids[1 - long_row].tolist() == [2, 7, 7]
    assert batch.targets[long_row].tolist() == [7, 7, IGNORED]
    assert batch.targets[1 - long_row].tolist() == [7, IGNORED, IGNORED]
    assert batch.attention_mask is not None and batch.cu_seqlens is None
    assert batch.attention_mask[1 - long_row].tolist() == [1, 1, 0]
    assert (batch.num_tokens, batch.num_supervised) == (5, 3)


def ids(batches) -> list[list[int]]:
    return [batch.input_ids.flatten().tolist() for batch in batches]


@pytest.mark.parametrize("packing", [True, False])
def test_resuming_at_any_place_continues_exactly(packing):
    samples, options = random_samples(60), {**SETTINGS, "packing": packing}
    whole = ids(islice(Loader(samples, **options), 30))
    for done in range(0, 25):
        loader = Loader(samples, **options)
        for _ in islice(loader, done):
            pass
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = Loader(samples, **options)
        resumed.load_state_dict(state)
        assert ids(islice(resumed, 5)) == whole[done : done + 5]


def test_iteration_runs_through_the_epochs():
    loader = Loader(random_samples(60), **SETTINGS)
    counts = [loader.num_batches(epoch) for epoch in range(3)]
    assert len(loader) == counts[0]
    through = ids(islice(loader, sum(counts)))
    assert loader.state_dict()["epoch"] == 3 and loader.state_dict()["index"] == 0
    again = Loader(random_samples(60), **SETTINGS)
    by_epoch = [batch for epoch in range(3) for batch in ids(again.epoch(epoch))]
    assert through == by_epoch
    assert sorted(through[: counts[0]]) != sorted(through[counts[0] : counts[0] + counts[1]])


def test_a_state_of_something_else_is_an_error():
    state = Loader(random_samples(60), **SETTINGS).state_dict()
    with pytest.raises(CheckpointError, match="the data changed"):
        Loader(random_samples(60, seed=1), **SETTINGS).load_state_dict(state)
    with pytest.raises(CheckpointError, match="`seed` was 5, is 6"):
        Loader(random_samples(60), **{**SETTINGS, "seed": 6}).load_state_dict(state)
    with pytest.raises(CheckpointError, match="`batch_size` was 3, is 4"):
        Loader(random_samples(60), **{**SETTINGS, "batch_size": 4}).load_state_dict(state)
    loader = Loader(random_samples(60), **SETTINGS)
    for wrong in ({"index": -1}, {"epoch": None}, {"index": "0"}):
        with pytest.raises(CheckpointError, match="needs epoch and index"):
            loader.load_state_dict({**state, **wrong})
    with pytest.raises(CheckpointError, match="The saved index 9999 is beyond"):
        loader.load_state_dict({**state, "index": 9999})


def test_what_a_loader_needs():
    with pytest.raises(DataError, match="at least one sample"):
        Loader(Samples([]), **SETTINGS)
    with pytest.raises(DataError, match="`max_length` is 5, but a sample has"):
        Loader(random_samples(20), **{**SETTINGS, "max_length": 5})


def test_samples_are_views_and_fingerprints_tell_them_apart():
    samples = random_samples(5)
    assert samples[0].input_ids.base is not None
    assert [len(sample) for sample in samples] == samples.lengths.tolist()
    assert samples[-1].input_ids.tolist() == samples[4].input_ids.tolist()
    with pytest.raises(IndexError):
        samples[5]
    assert samples.fingerprint() == random_samples(5).fingerprint()
    one, other = [Sample(np.arange(n, dtype=np.int32), np.zeros(n, bool)) for n in (2, 3)]
    flagged = Sample(one.input_ids, np.array([False, True]))
    prints = {Samples(group).fingerprint() for group in ([one, other], [other, one], [flagged, other], [one])}
    assert len(prints) == 4
