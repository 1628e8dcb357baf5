"""Davidson's model: closed forms, scipy's optimizer as an oracle, and strengths that the data were drawn with."""

import numpy as np
import pytest
from scipy.optimize import minimize

from quatrain.evaluation.judging import Verdict
from quatrain.evaluation.judging.matches import Matches, matches_of
from quatrain.evaluation.judging.rating.davidson import _PRECISION, bootstrap_ratings, davidson_ratings
from quatrain.evaluation.judging.verdicts import Outcome
from tests.evaluation.judging.drawn import drawn_verdicts

POINTS = 400 / np.log(10)


def verdicts_of(outcomes: dict[Outcome, int]) -> list[Verdict]:
    """Of x and y, on items of their own."""
    return [Verdict("x", "y", f"{outcome}{i}", outcome) for outcome, count in outcomes.items() for i in range(count)]


def test_two_systems_lie_as_far_apart_as_the_odds_of_their_decided_verdicts_say() -> None:
    ratings = davidson_ratings(matches_of(verdicts_of({"a": 3000, "b": 300, "tie": 500})))
    np.testing.assert_allclose(ratings, [1200, 800], atol=0.5)


@pytest.mark.parametrize("seed", range(3))
def test_scipy_finds_the_same_maximum(seed: int) -> None:
    matches = matches_of(drawn_verdicts(4, 6, seed))

    def loss(parameters: np.ndarray) -> float:
        return -log_likelihood(matches, parameters) + _PRECISION * (parameters**2).sum() / 2

    found = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-7}).x[:-1]
    np.testing.assert_allclose(davidson_ratings(matches), 1000 + POINTS * (found - found.mean()), atol=1e-2)


def log_likelihood(matches: Matches, parameters: np.ndarray) -> float:
    """Match by match, from the three odds of Davidson's paper."""
    total = 0.0
    for first, second, score in zip(matches.first_N, matches.second_N, matches.score_N, strict=True):
        x, y = parameters[first], parameters[second]
        odds = {1.0: x, 0.0: y, 0.5: parameters[-1] + (x + y) / 2}
        total += odds[score] - np.log(sum(np.exp(list(odds.values()))))
    return total


@pytest.mark.parametrize("outcomes", [{"a": 40}, {"tie": 40}, {"a": 1}, {"a": 20_000, "b": 1}])
def test_extremes_stay_finite(outcomes: dict[Outcome, int]) -> None:
    ratings = davidson_ratings(matches_of(verdicts_of(outcomes)))
    assert np.isfinite(ratings).all() and ratings.mean() == pytest.approx(1000)
    assert ratings[0] == pytest.approx(1000) if "tie" in outcomes else ratings[0] > ratings[1]


def test_the_bootstrap_draws_items() -> None:
    """A verdict that is repeated on the same item adds no certainty, one on another item does."""
    few = verdicts_of({"a": 12, "b": 6})
    same = [Verdict(f"x{i}", f"y{i}", v.item, v.verdict) for i in range(2) for v in few]
    linked = [*same, Verdict("x0", "x1", "link", "tie"), Verdict("y0", "y1", "link", "tie")]
    other = [Verdict("x", "y", f"{v.item}{i}", v.verdict) for i in range(4) for v in few]
    spread = bootstrap_ratings(matches_of(few), samples=200).std(axis=0)[0]
    assert bootstrap_ratings(matches_of(linked), samples=200).std(axis=0)[0] > 0.6 * spread
    assert bootstrap_ratings(matches_of(other), samples=200).std(axis=0)[0] < 0.6 * spread


def test_intervals_hold_the_strengths_that_verdicts_were_drawn_with() -> None:
    truth, inside = np.array([-0.25, 0, 0.25]) * 2 * POINTS + 1000, 0
    for seed in range(10):
        drawn = bootstrap_ratings(matches_of(drawn_verdicts(3, 60, seed)), samples=150, seed=seed)
        low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
        inside += int(((low <= truth) & (truth <= high)).sum())
    assert inside >= 25, "95 % of 30, and some bad luck"


def test_a_seed_fixes_the_samples() -> None:
    matches, told = matches_of(drawn_verdicts(3, 4)), []
    ratings = bootstrap_ratings(matches, samples=120, seed=3, progress=lambda *at: told.append(at))
    assert ratings.shape == (120, 3) and told == [(100, 120), (120, 120)]
    np.testing.assert_array_equal(ratings, bootstrap_ratings(matches, samples=120, seed=3))
