"""Rankings: of made-up verdicts, and of GPT-4's real ones."""

import json
from typing import Any

import pytest

from quatrain.errors import ConfigError, DataError
from quatrain.evaluation.judging import Verdict, rank
from quatrain.evaluation.judging.verdicts import Outcome
from tests.evaluation.judging.drawn import drawn_verdicts

QUICK: dict[str, Any] = {"orders": 50, "samples": 50}


def test_systems_come_from_the_best_to_the_worst() -> None:
    ranking = rank([*drawn_verdicts(5, 20), Verdict("s0", "s1", "more", "unparsed")], **QUICK)
    assert [standing.system for standing in ranking.standings] == ["s4", "s3", "s2", "s1", "s0"]
    assert (ranking.verdicts, ranking.unparsed, ranking.matches, ranking.items) == (401, 1, 400, 20)
    assert sum(standing.wins for standing in ranking.standings) == sum(s.losses for s in ranking.standings)
    for standing in ranking.standings:
        assert standing.wins + standing.ties + standing.losses == 160
        for interval in (standing.elo, standing.davidson):
            assert interval.low < interval.mean < interval.high
        assert 0 < standing.elo_error < (standing.elo.high - standing.elo.low) / 4
    assert not ranking.notes and json.loads(json.dumps(ranking.as_json()))["order"]["pairs"] == 200


def test_merged_pairs_are_one_match() -> None:
    verdicts = drawn_verdicts(3, 10)
    ranking = rank(verdicts, both_orders="merged", **QUICK)
    assert ranking.matches == 30 and ranking.verdicts == 60
    one_order = [verdict for verdict in verdicts if verdict.model_a < verdict.model_b]
    with pytest.raises(DataError, match="judged in both orders"):
        rank(one_order, both_orders="merged", **QUICK)


def test_little_evidence_is_remarked_on() -> None:
    once = Verdict("s0", "newcomer", "1", "b")
    champion = [Verdict("champion", "s0", str(item), "a") for item in range(40)]
    notes = rank([*drawn_verdicts(3, 10), once, *champion], **QUICK).notes
    assert len(notes) == 2 and notes[0].startswith("champion won every verdict")
    assert notes[1] == "newcomer has 1 verdict only: its rating says little"


def test_groups_that_never_met_are_named() -> None:
    apart = [Verdict("x", "y", "1", "a"), Verdict("u", "v", "1", "a"), Verdict("v", "w", "1", "b")]
    with pytest.raises(DataError, match=r"these groups never were: u, v, w; x, y\. Judge a pair across"):
        rank(apart, **QUICK)


def test_nothing_to_rank() -> None:
    with pytest.raises(DataError, match="of 1 verdicts none could be read"):
        rank([Verdict("x", "y", "1", "unparsed")], **QUICK)


@pytest.mark.parametrize("setting", [{"both_orders": "mixed"}, {"orders": 1}, {"samples": 0}])
def test_settings_are_checked(setting: dict) -> None:
    with pytest.raises(ConfigError):
        rank(drawn_verdicts(2, 2), **{**QUICK, **setting})


def test_a_judge_that_goes_by_the_order_is_remarked_on() -> None:
    verdicts = drawn_verdicts(3, 10)
    places: dict[Outcome, str] = {"a": "first", "b": "second"}
    for outcome, place in places.items():
        always = [Verdict(v.model_a, v.model_b, v.item, outcome) for v in verdicts]
        (note,) = rank(always, **QUICK).notes
        assert note.endswith(f"mostly the one that stands {place} wins")


def test_verdicts_that_share_no_item_are_remarked_on() -> None:
    apart = [Verdict(v.model_a, v.model_b, str(i), v.verdict) for i, v in enumerate(drawn_verdicts(3, 10))]
    (note,) = rank(apart, **QUICK).notes
    assert "an item of its own" in note
