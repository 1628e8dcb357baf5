"""The two orders of a pair: what their disagreement says of the judge, and one verdict out of both.

Judges tend to prefer the answer that they read first (the QLoRA paper found it in GPT-4), so every pair is judged in
both orders. There are two honest ways to use them. *Separate* counts each verdict as a match of its own, as the QLoRA
paper's Elo does: a preference for the first place gives each side one win and cancels out. *Merged* makes one match of
the two: a win only if the same system won both, anything else a tie, which is more cautious and takes the judge's
wavering for equality (Zheng et al. 2023, "Judging LLM-as-a-Judge", section 3.4).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quatrain.evaluation.judging.verdicts import Outcome, Verdict

DECIDED = ("a", "b")


@dataclass(frozen=True)
class OrderFacts:
    """How much a judge depends on the order of the answers."""

    pairs: int
    """Pairs of answers with a verdict in each order."""
    consistent: int
    """Of these, those with the same opinion in both orders."""
    first_wins: int
    """Verdicts for the answer that stood first, of all that are decided."""
    decided: int

    @property
    def consistency(self) -> float | None:
        """Share of the pairs; None without pairs."""
        return self.consistent / self.pairs if self.pairs else None

    @property
    def first_share(self) -> float | None:
        """How often the first answer won when one did; a judge who doesn't look at the order is near 0.5."""
        return self.first_wins / self.decided if self.decided else None


def order_facts(verdicts: Sequence[Verdict]) -> OrderFacts:
    """Counts over all verdicts that could be read."""
    both = [pair for pair in paired(verdicts) if "unparsed" not in (pair[0].verdict, pair[1].verdict)]
    outcomes = [verdict.verdict for verdict in verdicts]
    return OrderFacts(
        pairs=len(both),
        consistent=sum(one.verdict == other.swapped.verdict for one, other in both),
        first_wins=outcomes.count("a"),
        decided=sum(outcomes.count(outcome) for outcome in DECIDED),
    )


def merged(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """One verdict for each pair of answers that was judged in both orders; systems in the order of their names.

    A pair with an unparsed verdict is unparsed; one that was judged in one order only is left out.
    """
    return [
        Verdict(one.model_a, one.model_b, one.item, _merged(one.verdict, other.swapped.verdict))
        for one, other in paired(verdicts)
    ]


def paired(verdicts: Sequence[Verdict]) -> Iterator[tuple[Verdict, Verdict]]:
    """Pairs of verdicts on the same answers in both orders, that with the systems in the order of their names first."""
    by_key = {verdict.key: verdict for verdict in verdicts}
    for verdict in verdicts:
        other = by_key.get(verdict.swapped.key)
        if other is not None and verdict.model_a < verdict.model_b:
            yield verdict, other


def _merged(one: Outcome, other: Outcome) -> Outcome:
    if "unparsed" in (one, other):
        return "unparsed"
    return one if one == other else "tie"
