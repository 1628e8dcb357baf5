"""How far judges agree: on the order of the systems, and on single examples (QLoRA paper, section 5.3).

Two judges' rankings are compared by Kendall's τ and Spearman's ρ of their Elo ratings. Verdicts on single examples are
compared by Fleiss' κ (Fleiss 1971), for any number of judges: the share of pairs of judges that agree, beyond what they
would if each drew its verdicts blindly from how often all give each; 1 is full agreement, 0 is chance. Judges can rank
systems alike and still differ on most examples; the paper's did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from quatrain.errors import ConfigError, DataError
from quatrain.evaluation.judging.both_orders import merged
from quatrain.evaluation.judging.matches import matches_of
from quatrain.evaluation.judging.rating.elo import ORDERS, elo_over_orders
from quatrain.evaluation.judging.verdicts import Verdict

_CATEGORIES = ("a", "b", "tie")


@dataclass(frozen=True)
class PairAgreement:
    """Two judges' rankings of the systems that both have judged."""

    judges: tuple[str, str]
    systems: int
    kendall_tau: float | None
    """None where a judge ranks all systems equally."""
    spearman_rho: float | None


@dataclass(frozen=True)
class Agreement:
    """Of all judges."""

    pairs: tuple[PairAgreement, ...]
    fleiss_kappa: float | None
    """None where all verdicts are the same, so that chance alone agrees fully."""
    examples: int
    """Pairs of answers that all judges have judged in both orders and given a verdict on."""


def agreement(
    judges: Mapping[str, Sequence[Verdict]],
    *,
    orders: int = ORDERS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Compare judges by name, each with all of its verdicts.

    Raises:
        DataError: there are fewer than two judges, or no example that all have judged.
        ConfigError: scipy isn't installed.
    """
    if len(judges) < 2:
        raise DataError(f"agreement needs at least two judges, got {len(judges)}: {', '.join(judges)}")
    ratings = {}
    for judge, verdicts in judges.items():
        matches = matches_of(verdicts)
        mean_S = elo_over_orders(matches, orders=orders, seed=seed).mean(axis=0)
        ratings[judge] = dict(zip(matches.systems, mean_S.tolist(), strict=True))
        if progress:
            progress(len(ratings), len(judges))
    table_NC = verdict_table(list(judges.values()))
    return Agreement(
        pairs=tuple(_compared((one, other), ratings[one], ratings[other]) for one, other in combinations(ratings, 2)),
        fleiss_kappa=fleiss_kappa(table_NC),
        examples=len(table_NC),
    )


def verdict_table(judges: Sequence[Sequence[Verdict]]) -> np.ndarray:
    """How many judges gave each verdict (a, b, tie) on each example that all have judged, int64 [examples, 3].

    An example is a pair of answers to an item; its verdict is what both orders say together.

    Raises:
        DataError: no example has a verdict of every judge.
    """
    known = [{v.key: v.verdict for v in merged(verdicts) if v.verdict != "unparsed"} for verdicts in judges]
    common = [key for key in known[0] if all(key in each for each in known[1:])]
    if not common:
        raise DataError(
            "no pair of answers has been judged by all judges in both orders; `item` and the systems' names must be "
            "the same in all files"
        )
    said = np.array([[_CATEGORIES.index(each[key]) for each in known] for key in common])
    return (said[:, :, None] == np.arange(len(_CATEGORIES))).sum(axis=1)


def fleiss_kappa(table_NC: np.ndarray) -> float | None:
    """Fleiss' κ of counts [N examples, C categories]; every example was judged by the same number of judges.

    Raises:
        DataError: examples have different numbers of judges, or fewer than two.
    """
    judges_N = table_NC.sum(axis=1)
    judges = int(judges_N[0])
    if judges < 2 or (judges_N != judges).any():
        raise DataError(f"Fleiss' κ needs the same number of judges, at least 2, for each example, got {set(judges_N)}")
    agreed = ((table_NC**2).sum(axis=1) - judges).mean() / (judges * (judges - 1))
    by_chance = ((table_NC.sum(axis=0) / table_NC.sum()) ** 2).sum()
    return None if by_chance == 1 else float((agreed - by_chance) / (1 - by_chance))


def _compared(judges: tuple[str, str], one: Mapping[str, float], other: Mapping[str, float]) -> PairAgreement:
    try:
        from scipy.stats import kendalltau, spearmanr
    except ImportError as error:
        raise ConfigError("rank correlations need scipy: pip install 'quatrain[judge]'") from error
    common = sorted(one.keys() & other.keys())
    x, y = ([ratings[name] for name in common] for ratings in (one, other))
    if len(set(x)) == 1 or len(set(y)) == 1:
        return PairAgreement(judges, len(common), None, None)
    found: list[Any] = [kendalltau(x, y), spearmanr(x, y)]
    return PairAgreement(judges, len(common), *(float(result.statistic) for result in found))
