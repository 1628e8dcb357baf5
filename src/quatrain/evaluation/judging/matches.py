"""Verdicts as arrays, for everything that counts them many thousand times.

Legend: N verdicts, S systems, I items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quatrain.errors import DataError
from quatrain.evaluation.judging.verdicts import Verdict

_SCORES = {"a": 1.0, "tie": 0.5, "b": 0.0}


@dataclass(frozen=True)
class Matches:
    """Verdicts that could be read: who met whom on what, and the result."""

    systems: tuple[str, ...]
    """[S], in the order of their names."""
    first_N: np.ndarray
    """Numbers of systems, int64."""
    second_N: np.ndarray
    item_N: np.ndarray
    """Numbers of items, int64 from 0 on."""
    score_N: np.ndarray
    """The first system's: 1, ½ or 0."""

    @property
    def items(self) -> int:
        """I."""
        return int(self.item_N.max()) + 1

    def points_S(self, score: float) -> np.ndarray:
        """How many verdicts each system has with this score of its own."""
        mine = np.concatenate([self.first_N[self.score_N == score], self.second_N[1 - self.score_N == score]])
        return np.bincount(mine, minlength=len(self.systems))


def matches_of(verdicts: Sequence[Verdict]) -> Matches:
    """The verdicts but for those that are unparsed.

    Raises:
        DataError: none is left, or some systems were never compared with the others, not even through third ones, so
            that no rating can say how they stand to each other.
    """
    read = [verdict for verdict in verdicts if verdict.verdict != "unparsed"]
    if not read:
        raise DataError(f"there is nothing to rank: of {len(verdicts):,} verdicts none could be read")
    systems = sorted({name for verdict in read for name in (verdict.model_a, verdict.model_b)})
    items = list(dict.fromkeys(verdict.item for verdict in read))
    number, item_number = ({name: i for i, name in enumerate(names)} for names in (systems, items))
    matches = Matches(
        systems=tuple(systems),
        first_N=np.array([number[verdict.model_a] for verdict in read]),
        second_N=np.array([number[verdict.model_b] for verdict in read]),
        item_N=np.array([item_number[verdict.item] for verdict in read]),
        score_N=np.array([_SCORES[verdict.verdict] for verdict in read]),
    )
    _check_connected(matches)
    return matches


def _check_connected(matches: Matches) -> None:
    group_S = np.arange(len(matches.systems))
    for first, second in set(zip(matches.first_N.tolist(), matches.second_N.tolist(), strict=True)):
        group_S[group_S == group_S[second]] = group_S[first]
    groups = [[matches.systems[i] for i in np.flatnonzero(group_S == group)] for group in dict.fromkeys(group_S)]
    if len(groups) > 1:
        said = "; ".join(", ".join(group) for group in groups)
        raise DataError(
            f"ratings need systems that were compared, directly or through others, and these groups never were: {said}."
            " Judge a pair across the groups, or rank each group by itself"
        )
