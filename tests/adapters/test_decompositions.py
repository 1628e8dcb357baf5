"""Main directions against full decompositions and PyTorch's own."""

import pytest
import torch

from quatrain.adapters.decompositions import leading_directions


def test_they_are_nearly_the_best_that_there_are():
    """The spectrum falls slowly here, which is the hard case."""
    side, rank = 300, 16
    (u, _), (v, _) = torch.linalg.qr(torch.randn(side, side)), torch.linalg.qr(torch.randn(side, side))
    s = torch.arange(1, side + 1).float().pow(-0.5)
    delta = (u * s) @ v.T
    u, s_found, vh = leading_directions(delta, 2 * rank, rounds=6)
    torch.testing.assert_close(s_found[:rank], s[:rank], rtol=2e-3, atol=0)
    lost = float((delta - (u[:, :rank] * s_found[:rank]) @ vh[:rank]).norm())
    assert lost <= float(s[rank:].norm()) * 1.001


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (30, 30)])
def test_for_the_same_seed_it_is_pytorchs(shape):
    matrix = torch.randn(shape)
    u, s, vh = leading_directions(matrix, 5, rounds=3)
    torch.manual_seed(42)
    expected_u, expected_s, expected_v = torch.svd_lowrank(matrix, 5, niter=3)
    torch.testing.assert_close(s, expected_s)
    torch.testing.assert_close((u * s) @ vh, (expected_u * expected_s) @ expected_v.T)


def test_the_global_generator_is_left_alone():
    matrix, before = torch.randn(9, 7), torch.get_rng_state()
    leading_directions(matrix, 3, rounds=1)
    assert torch.equal(torch.get_rng_state(), before)
