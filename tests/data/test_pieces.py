"""A micro-batch in pieces holds the same samples, whole, and the same targets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quatrain.data import Loader, MicroBatch, Sample, Samples
from quatrain.data.pieces import pieces


def batch_of(lengths: list[int], packing: bool) -> MicroBatch:
    rng = np.random.default_rng(len(lengths))
    samples = [Sample(rng.integers(3, 99, n).astype(np.int32), np.ones(n, dtype=np.bool_)) for n in lengths]
    loader = Loader(Samples(samples), max_length=max(lengths), batch_size=len(lengths), packing=packing)
    (batch,) = loader.epoch(0)
    return batch


def learned(batches: list[MicroBatch]) -> list[tuple[int, ...]]:
    """(input, target, position) of everything that is learned, in order."""
    found = []
    for batch in batches:
        where = batch.targets != -100
        parts = (batch.input_ids, batch.targets, batch.position_ids.expand_as(batch.targets))
        found += zip(*(part[where].tolist() for part in parts), strict=True)
    return found


@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=12), most=st.integers(1, 9), packing=st.booleans())
def test_pieces_hold_the_whole(lengths, most, packing):
    batch = batch_of(lengths, packing)
    cut = pieces(batch, most)
    assert len(cut) <= most
    assert learned(cut) == learned([batch])
    assert sum(piece.num_supervised for piece in cut) == batch.num_supervised
    for piece in cut:
        assert piece.input_ids.shape == piece.targets.shape
        if piece.cu_seqlens is not None:
            assert piece.cu_seqlens[0] == 0 and piece.cu_seqlens[-1] == piece.input_ids.shape[1]
            starts = piece.cu_seqlens[:-1].long()
            assert (piece.position_ids[0, starts] == 0).all()


@pytest.mark.parametrize("packing", [True, False])
def test_pieces_are_about_equal(packing):
    sizes = [piece.input_ids.numel() for piece in pieces(batch_of([16] * 8, packing), 4)]
    assert len(sizes) == 4 and max(sizes) <= 2 * min(sizes)


def test_a_sample_is_never_cut():
    (piece,) = pieces(batch_of([50], True), 4)
    assert piece.num_supervised == 49


def test_a_piece_on_which_nothing_is_learned_is_left_out():
    batch = batch_of([10, 12], False)
    batch.targets[1] = -100
    (piece,) = pieces(batch, 2)
    assert torch.equal(piece.targets, batch.targets[:1])
