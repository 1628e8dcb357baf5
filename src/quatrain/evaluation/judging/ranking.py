"""From verdicts to a ranking: each system's points, Elo over random orders, and Davidson ratings with a bootstrap."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from quatrain.errors import ConfigError, DataError
from quatrain.evaluation.judging.both_orders import OrderFacts, merged, order_facts
from quatrain.evaluation.judging.matches import Matches, matches_of
from quatrain.evaluation.judging.rating.davidson import SAMPLES, bootstrap_ratings, davidson_ratings
from quatrain.evaluation.judging.rating.elo import ORDERS, elo_over_orders
from quatrain.evaluation.judging.verdicts import Verdict
from quatrain.evaluation.statistics import Interval

BothOrders = Literal["separate", "merged"]
FEW = 30
"""Verdicts below which a system's rating is remarked on: its Elo may still be on the way from the start."""
BIASED = 0.75
"""Share of the decided verdicts from which one place is remarked on as the winner."""

_LEVEL = (2.5, 97.5)
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Standing:
    """One system's place."""

    system: str
    elo: Interval
    """Mean over orders, and between which ratings 95 % of the orders lie."""
    elo_error: float
    """Half of the 95 % interval of that mean: what the QLoRA paper has behind its ±."""
    davidson: Interval
    """Maximum likelihood, and the bootstrap's 95 % over items."""
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Ranking:
    """Systems from the best Elo rating to the worst, and what the ratings rest on."""

    standings: tuple[Standing, ...]
    both_orders: BothOrders
    verdicts: int
    """Those that were read, of which `unparsed` rate nobody."""
    unparsed: int
    matches: int
    """What was rated: verdicts, or with `both_orders: merged` pairs."""
    items: int
    orders: int
    samples: int
    seed: int
    order: OrderFacts
    notes: tuple[str, ...]
    """Where the ratings are to be read with care."""

    def as_json(self) -> dict[str, Any]:
        """Plain values for a result file."""
        facts = {"consistency": self.order.consistency, "first_share": self.order.first_share}
        return asdict(self) | {"order": asdict(self.order) | facts}


def rank(
    verdicts: Sequence[Verdict],
    *,
    both_orders: BothOrders = "separate",
    orders: int = ORDERS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Ranking:
    """Rate all systems in `verdicts`.

    Args:
        both_orders: a match for each verdict, or one for both orders of a pair (:mod:`both_orders`).
        orders: random orders of the matches for Elo.
        samples: bootstrap samples for the Davidson ratings.
        seed: of both.
        progress: called with (what, done, in all).

    Raises:
        ConfigError: a setting is out of range.
        DataError: no verdict could be read, or not all systems are connected by verdicts.
    """
    if both_orders not in get_args(BothOrders):
        raise ConfigError(f"`both_orders` must be one of {', '.join(get_args(BothOrders))}, got {both_orders!r}")
    if orders < 2 or samples < 2:
        raise ConfigError(f"an interval needs at least 2 orders and 2 samples, got {orders} and {samples}")
    rated = merged(verdicts) if both_orders == "merged" else verdicts
    if not rated:
        raise DataError("no pair of answers was judged in both orders, so there is nothing to merge; rank separately")
    matches = matches_of(rated)
    told = progress or (lambda *at: None)
    elo_RS = elo_over_orders(matches, orders=orders, seed=seed, progress=lambda *at: told("Elo over orders", *at))
    drawn_BS = bootstrap_ratings(matches, samples=samples, seed=seed, progress=lambda *at: told("bootstrap", *at))
    facts = order_facts(verdicts)
    standings = _standings(matches, elo_RS, davidson_ratings(matches), drawn_BS)
    return Ranking(
        standings=tuple(sorted(standings, key=lambda standing: -standing.elo.mean)),
        both_orders=both_orders,
        verdicts=len(verdicts),
        unparsed=sum(verdict.verdict == "unparsed" for verdict in verdicts),
        matches=len(matches.score_N),
        items=matches.items,
        orders=orders,
        samples=samples,
        seed=seed,
        order=facts,
        notes=(*_notes(standings), *_note_on_items(matches), *_note_on_order(facts)),
    )


def _standings(matches: Matches, elo_RS: np.ndarray, likeliest_S: np.ndarray, drawn_BS: np.ndarray) -> list[Standing]:
    elo_S, spread_2S = elo_RS.mean(axis=0), np.percentile(elo_RS, _LEVEL, axis=0)
    error_S = _NORMAL_95 * elo_RS.std(axis=0, ddof=1) / len(elo_RS) ** 0.5
    drawn_2S = np.percentile(drawn_BS, _LEVEL, axis=0)
    won_S, tied_S, lost_S = (matches.points_S(score).tolist() for score in (1.0, 0.5, 0.0))
    return [
        Standing(
            system=system,
            elo=Interval(float(elo_S[i]), float(spread_2S[0, i]), float(spread_2S[1, i])),
            elo_error=float(error_S[i]),
            davidson=Interval(float(likeliest_S[i]), float(drawn_2S[0, i]), float(drawn_2S[1, i])),
            wins=won_S[i],
            ties=tied_S[i],
            losses=lost_S[i],
        )
        for i, system in enumerate(matches.systems)
    ]


def _note_on_order(facts: OrderFacts) -> list[str]:
    share = facts.first_share
    if share is None or 1 - BIASED < share < BIASED:
        return []
    place = "first" if share > 0.5 else "second"
    return [f"the judge goes by the order more than by the answers: mostly the one that stands {place} wins"]


def _note_on_items(matches: Matches) -> list[str]:
    if matches.items < len(matches.score_N):
        return []
    return ["every verdict has an item of its own, so the bootstrap takes them for independent of one another"]


def _notes(standings: Sequence[Standing]) -> list[str]:
    notes = []
    for standing in standings:
        count = standing.wins + standing.ties + standing.losses
        if count < FEW:
            notes.append(f"{standing.system} has {count} verdict{'s' * (count != 1)} only: its rating says little")
        elif count in (standing.wins, standing.losses):
            what = "won" if standing.wins else "lost"
            notes.append(f"{standing.system} {what} every verdict: how far it lies from the others isn't known")
    return notes
