"""Products of thin matrices against the whole ones."""

import pytest
import torch

from quatrain.adapters.arithmetic.factors import (
    EXACT_SIDE,
    Factors,
    minus,
    nearest,
    norm,
    singular_values,
    truncated,
)


def drawn(outputs: int, inputs: int, rank: int) -> Factors:
    return Factors(torch.randn(outputs, rank).double(), torch.randn(rank, inputs).double())


def whole(factors: Factors) -> torch.Tensor:
    return factors.b_OR @ factors.a_RI


@pytest.mark.parametrize("shape", [(20, 31, 5), (31, 7, 9), (3, 4, 8)])
def test_norm_and_singular_values_are_those_of_the_product(shape):
    factors = drawn(*shape)
    values = torch.linalg.svdvals(whole(factors))[: len(singular_values(factors))]
    torch.testing.assert_close(singular_values(factors), values)
    assert norm(factors) == pytest.approx(float(whole(factors).norm()))


@pytest.mark.parametrize("rank", [1, 3, 5, 8, 40])
def test_no_product_of_that_rank_is_nearer(rank):
    factors = drawn(20, 31, 5)
    cut = truncated(factors, rank)
    u, s, vh = torch.linalg.svd(whole(factors), full_matrices=False)
    torch.testing.assert_close(whole(cut), (u[:, :rank] * s[:rank]) @ vh[:rank], rtol=0, atol=1e-10)
    assert cut.rank == rank and cut.a_RI.any(dim=1).all(), "every direction can be trained on"
    torch.testing.assert_close(whole(nearest(whole(factors), rank)), whole(cut), rtol=0, atol=1e-10)


def test_a_difference_of_equals_is_nothing():
    factors = drawn(9, 8, 3)
    assert norm(minus(factors, factors)) < 1e-12


def test_beyond_the_exact_side_a_product_of_that_rank_comes_back():
    factors = Factors(torch.randn(EXACT_SIDE + 9, 3), torch.randn(3, EXACT_SIDE + 1))
    torch.testing.assert_close(whole(nearest(whole(factors), 4)).float(), whole(factors), rtol=0, atol=1e-3)
