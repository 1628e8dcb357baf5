"""GPT-4's 40,026 verdicts give the ranking that the QLoRA paper printed, and the docs say what was measured."""

import json

import pytest

from benchmarks import oasst_elo
from quatrain.evaluation.judging import rank, read_verdicts
from tests.evaluation.judging.drawn import SHARED

VERDICTS = SHARED / "judgments" / "oasst_gpt4_pairwise.csv"


def test_the_papers_ratings_come_out() -> None:
    if not VERDICTS.is_file():
        pytest.skip("needs shared/data beside the repository")
    verdicts = oasst_elo.by_question(read_verdicts(VERDICTS))
    ranking = rank(verdicts, orders=400, samples=20)
    assert (ranking.verdicts, ranking.unparsed, ranking.items) == (40_026, 1_482, 953)
    assert [standing.system for standing in ranking.standings] == list(oasst_elo.PAPER)
    for standing in ranking.standings:
        paper = oasst_elo.PAPER[standing.system][1]
        assert standing.elo.mean == pytest.approx(paper, abs=oasst_elo.TOLERANCE)
        assert standing.davidson.low <= standing.davidson.mean <= standing.davidson.high


def test_the_result_file_is_within_the_target_and_the_docs_show_it() -> None:
    result = json.loads(oasst_elo.RESULT.read_text(encoding="utf-8"))
    assert result["settings"]["orders"] == 10_000
    assert all(abs(row["elo"] - row["paper"]) <= oasst_elo.TOLERANCE for row in result["rows"])
    assert oasst_elo.table(result) in oasst_elo.PAGE.read_text(encoding="utf-8")
