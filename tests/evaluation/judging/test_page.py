"""A ranking as `quatrain judge rank` writes it becomes a page."""

import json
from pathlib import Path

from quatrain.evaluation.judging import rank
from quatrain.report import write_results
from tests.evaluation.judging.drawn import drawn_verdicts


def test_every_system_is_on_the_page(tmp_path: Path):
    ranking = rank(drawn_verdicts(3, 12), orders=20, samples=5)
    path = tmp_path / "ranking-someone.json"
    path.write_text(json.dumps({"judge": "someone", **ranking.as_json()}), encoding="utf-8")
    shown = write_results([path]).read_text(encoding="utf-8")
    for standing in ranking.standings:
        assert standing.system in shown and f"{standing.elo.mean:,.0f} (" in shown
    assert f"{ranking.verdicts} verdicts of someone on 12 questions" in shown
