"""One verdict out of both orders, and what the two say of the judge."""

import pytest

from quatrain.evaluation.judging import Verdict
from quatrain.evaluation.judging.both_orders import merged, order_facts


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("a", "b", "a"),
        ("b", "a", "b"),
        ("tie", "tie", "tie"),
        ("a", "a", "tie"),
        ("b", "b", "tie"),
        ("a", "tie", "tie"),
        ("a", "unparsed", "unparsed"),
        ("unparsed", "tie", "unparsed"),
    ],
)
def test_a_win_needs_both_orders(one, other, together) -> None:
    both = [Verdict("x", "y", "1", one), Verdict("y", "x", "1", other)]
    assert merged(both) == merged(both[::-1]) == [Verdict("x", "y", "1", together)]


def test_what_was_judged_in_one_order_is_left_out() -> None:
    assert merged([Verdict("x", "y", "1", "a"), Verdict("y", "x", "2", "b"), Verdict("x", "z", "1", "a")]) == []


def test_facts_count_pairs_and_first_places() -> None:
    facts = order_facts(
        [
            *(Verdict("x", "y", "1", "a"), Verdict("y", "x", "1", "b")),
            *(Verdict("x", "y", "2", "a"), Verdict("y", "x", "2", "a")),
            *(Verdict("x", "y", "3", "unparsed"), Verdict("y", "x", "3", "a")),
            Verdict("x", "y", "4", "tie"),
        ]
    )
    assert (facts.pairs, facts.consistent, facts.first_wins, facts.decided) == (2, 1, 4, 5)
    assert facts.consistency == 0.5 and facts.first_share == 0.8
    assert order_facts([]).consistency is None and order_facts([]).first_share is None
