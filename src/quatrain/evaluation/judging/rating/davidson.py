"""The Bradley-Terry model with ties (Davidson 1970), by maximum likelihood, with intervals by a bootstrap over items.

Each system has a strength θ, and there is one readiness to tie, η. Of a meeting of i and j the odds are

    i wins : j wins : tie  =  exp(θi) : exp(θj) : exp(η + (θi + θj) / 2)

so two systems whose strengths lie 400 points apart have odds of 10 : 1 among the decided verdicts. Unlike Elo's, the
estimate doesn't depend on any order. A rating is 1000 + θ · 400 / ln 10, the mean of all systems at 1000.

As a function of (θ, η) the likelihood is that of a multinomial logistic regression, so Newton's method finds its one
maximum in a few steps; all bootstrap samples take these steps together. A normal prior on θ and η with a standard
deviation of 1000 points keeps the estimate finite for a system that has won everything, and moves one with a hundred
mixed verdicts by less than a point.

The bootstrap draws items with replacement, not verdicts: verdicts on one question aren't independent.

Legend: S systems, P pairs that met, C = 3 outcomes (first wins, second wins, tie), F = S + 1 parameters, B samples,
I items.
"""

from collections.abc import Callable, Iterator

import numpy as np

from quatrain.evaluation.judging.matches import Matches
from quatrain.evaluation.judging.rating.elo import SCALE, START

SAMPLES = 1_000
_POINTS_PER_NAT = SCALE / np.log(10)
_PRECISION = (_POINTS_PER_NAT / 1000.0) ** 2
_LONGEST_STEP = 2.0
"""In nats. Far from the maximum a whole Newton step can lead farther away."""
_STEPS = 100
_AT_ONCE = 100
"""Samples at once: the drawn counts of all items take memory for each."""


def davidson_ratings(matches: Matches) -> np.ndarray:
    """Ratings [S] of the maximum."""
    pairs = _Pairs(matches)
    return pairs.ratings(pairs.counts_IPC.sum(axis=0)[None])[0]


def bootstrap_ratings(
    matches: Matches, *, samples: int = SAMPLES, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Ratings [B, S] of as many bootstrap samples of the items."""
    pairs, generator = _Pairs(matches), np.random.default_rng(seed)
    parts = []
    for begin in range(0, samples, _AT_ONCE):
        rows = min(_AT_ONCE, samples - begin)
        drawn_BI = generator.multinomial(matches.items, np.full(matches.items, 1 / matches.items), size=rows)
        parts.append(pairs.ratings(np.tensordot(drawn_BI.astype(np.float64), pairs.counts_IPC, axes=1)))
        if progress:
            progress(begin + rows, samples)
    return np.concatenate(parts)


class _Pairs:
    """Which systems met, how often with which outcome on each item, and what an outcome says of the parameters."""

    def __init__(self, matches: Matches):
        systems = len(matches.systems)
        low_N, high_N = np.minimum(matches.first_N, matches.second_N), np.maximum(matches.first_N, matches.second_N)
        met_P, pair_N = np.unique(low_N * systems + high_N, return_inverse=True)
        low_P, high_P = np.divmod(met_P, systems)
        score_N = np.where(low_N == matches.first_N, matches.score_N, 1 - matches.score_N)
        outcome_N = np.select([score_N == 1, score_N == 0], [0, 1], default=2)
        self.counts_IPC = np.zeros((matches.items, len(met_P), 3))
        np.add.at(self.counts_IPC, (matches.item_N, pair_N, outcome_N), 1)
        self._features_PCF = np.zeros((len(met_P), 3, systems + 1))
        each = np.arange(len(met_P))
        for outcome, place_P, part in _parts(low_P, high_P, systems):
            self._features_PCF[each, outcome, place_P] += part

    def ratings(self, counts_BPC: np.ndarray) -> np.ndarray:
        """Ratings [B, S] of the maxima for these counts of outcomes."""
        parameters_BF = np.zeros((len(counts_BPC), self._features_PCF.shape[-1]))
        for _ in range(_STEPS):
            step_BF = self._newton_step(parameters_BF, counts_BPC)
            longest_B1 = np.abs(step_BF).max(axis=1, keepdims=True)
            parameters_BF += step_BF * np.minimum(1, _LONGEST_STEP / np.maximum(longest_B1, 1e-300))
            if longest_B1.max() < 1e-9:
                break
        strengths_BS = parameters_BF[:, :-1]
        return START + _POINTS_PER_NAT * (strengths_BS - strengths_BS.mean(axis=1, keepdims=True))

    def _newton_step(self, parameters_BF: np.ndarray, counts_BPC: np.ndarray) -> np.ndarray:
        x_PCF = self._features_PCF
        logits_BPC = np.einsum("bf,pcf->bpc", parameters_BF, x_PCF)
        odds_BPC = np.exp(logits_BPC - logits_BPC.max(axis=2, keepdims=True))
        expected_BPC = odds_BPC * (counts_BPC.sum(axis=2) / odds_BPC.sum(axis=2))[..., None]
        gradient_BF = np.einsum("bpc,pcf->bf", counts_BPC - expected_BPC, x_PCF) - _PRECISION * parameters_BF
        mean_BPF = np.einsum("bpc,pcf->bpf", expected_BPC, x_PCF)
        met_BP = np.maximum(counts_BPC.sum(axis=2), 1)
        curvature_BFF = np.einsum("bpc,pcf,pcg->bfg", expected_BPC, x_PCF, x_PCF, optimize=True)
        curvature_BFF -= np.einsum("bpf,bpg->bfg", mean_BPF / met_BP[..., None], mean_BPF)
        curvature_BFF += _PRECISION * np.eye(parameters_BF.shape[1])
        return np.linalg.solve(curvature_BFF, gradient_BF[..., None])[..., 0]


def _parts(low_P: np.ndarray, high_P: np.ndarray, tie: int) -> Iterator[tuple[int, np.ndarray, float]]:
    """(outcome, parameter of each pair, its part in the outcome's logit); the parameter `tie` is η."""
    yield 0, low_P, 1.0
    yield 1, high_P, 1.0
    yield 2, low_P, 0.5
    yield 2, high_P, 0.5
    yield 2, np.full_like(low_P, tie), 1.0
