"""Verdicts of a made-up judge, and where real ones lie."""

from pathlib import Path

import numpy as np

from quatrain.evaluation.judging import Verdict
from quatrain.evaluation.judging.verdicts import Outcome

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
OUTCOMES: tuple[Outcome, ...] = ("a", "b", "tie")


def drawn_verdicts(systems: int, items: int, seed: int = 0) -> list[Verdict]:
    """Every pair in both orders on every item; systems with larger numbers tend to win."""
    generator = np.random.default_rng(seed)
    return [
        Verdict(f"s{one}", f"s{other}", str(item), _drawn(generator, other - one))
        for one in range(systems)
        for other in range(systems)
        for item in range(items)
        if one != other
    ]


def _drawn(generator: np.random.Generator, ahead: int) -> Outcome:
    odds = np.exp([-ahead / 4, ahead / 4, -0.5])
    return OUTCOMES[generator.choice(3, p=odds / odds.sum())]
