"""Elo side by side is Elo one after the other."""

import numpy as np
import pytest

from quatrain.evaluation.judging.matches import Matches, matches_of
from quatrain.evaluation.judging.rating import elo
from tests.evaluation.judging.drawn import drawn_verdicts


def one_by_one(matches: Matches, order: np.ndarray) -> np.ndarray:
    """The textbook's loop."""
    ratings = np.full(len(matches.systems), 1000.0)
    for match in order:
        first, second = matches.first_N[match], matches.second_N[match]
        expected = 1 / (1 + 10 ** ((ratings[second] - ratings[first]) / 400))
        gain = 32 * (matches.score_N[match] - expected)
        ratings[first] += gain
        ratings[second] -= gain
    return ratings


def test_each_column_is_the_textbooks_loop() -> None:
    matches = matches_of(drawn_verdicts(4, 5))
    generator = np.random.default_rng(1)
    orders = np.stack([generator.permutation(len(matches.score_N)) for _ in range(7)])
    played = elo._played(matches, np.ascontiguousarray(orders.T))
    np.testing.assert_allclose(played, [one_by_one(matches, order) for order in orders], rtol=1e-12)


def test_a_seed_fixes_the_orders_whatever_is_played_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    matches, told = matches_of(drawn_verdicts(3, 4)), []
    ratings = elo.elo_over_orders(matches, orders=11, seed=5)
    monkeypatch.setattr(elo, "_SIDE_BY_SIDE", 4)
    again = elo.elo_over_orders(matches, orders=11, seed=5, progress=lambda *at: told.append(at))
    np.testing.assert_array_equal(ratings, again)
    assert told == [(4, 11), (8, 11), (11, 11)]
    assert not np.array_equal(ratings, elo.elo_over_orders(matches, orders=11, seed=6))
    np.testing.assert_allclose(ratings.sum(axis=1), 3000)
