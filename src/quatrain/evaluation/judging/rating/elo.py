"""Elo ratings over many random orders of the verdicts, as in the QLoRA paper (Dettmers et al. 2023, section 5.2).

Everyone starts at 1000. After a match the winner takes K · (1 - expected score) points from the loser, where the
expected score is 1 / (1 + 10^(difference / 400)) and K = 32; a tie counts half. An Elo rating forgets: it depends on
the order of the matches, the last ones most. Therefore the verdicts are put into random order 10,000 times and the
ratings averaged.

What the averages' interval means is easily mistaken. The paper's "± 1" is how well so many orders pin down their own
mean. The ratings of single orders spread by some ±90 points. Neither says how the ranking would change with other
questions: that is what :mod:`davidson` bootstraps.

All orders are played side by side, a column each: 40,000 matches in sequence are numpy calls on vectors then, rather
than 400 million turns of a Python loop.

Legend: N verdicts, S systems, R orders.
"""

from collections.abc import Callable, Iterator

import numpy as np

from quatrain.evaluation.judging.matches import Matches

ORDERS = 10_000
K = 32.0
START = 1000.0
SCALE = 400.0
"""Points that make the odds 10 : 1."""

_SIDE_BY_SIDE = 500
"""Orders at once. More save little time, and each takes memory for a permutation of all verdicts."""


def elo_over_orders(
    matches: Matches, *, orders: int = ORDERS, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Ratings [R, S] after each of `orders` random orders of the verdicts.

    Args:
        seed: of the orders: the same verdicts give the same ratings.
        progress: called with (orders done, orders in all).
    """
    generator = np.random.default_rng(seed)
    parts = []
    for begin in range(0, orders, _SIDE_BY_SIDE):
        rows = min(_SIDE_BY_SIDE, orders - begin)
        order_RN = np.tile(np.arange(len(matches.score_N), dtype=np.int32), (rows, 1))
        generator.permuted(order_RN, axis=1, out=order_RN)
        parts.append(_played(matches, np.ascontiguousarray(order_RN.T)))
        if progress:
            progress(begin + rows, orders)
    return np.concatenate(parts)


def _played(matches: Matches, order_NR: np.ndarray) -> np.ndarray:
    """Ratings [R, S] after all matches, each column of `order_NR` an order."""
    columns = order_NR.shape[1]
    ratings = np.full(len(matches.systems) * columns, START)
    for first_R, second_R, score_R in _places(matches, order_NR):
        behind_R = ratings[second_R] - ratings[first_R]
        gain_R = K * (score_R - 1 / (1 + np.exp(behind_R * (np.log(10) / SCALE))))
        ratings[first_R] += gain_R
        ratings[second_R] -= gain_R
    return ratings.reshape(-1, columns).T


def _places(matches: Matches, order_NR: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each turn: where in a flat [S, R] the ratings of the two lie that meet in each order, and the score."""
    columns = order_NR.shape[1]
    first_N, second_N, column_R = matches.first_N * columns, matches.second_N * columns, np.arange(columns)
    for match_R in order_NR:
        yield first_N[match_R] + column_R, second_N[match_R] + column_R, matches.score_N[match_R]
