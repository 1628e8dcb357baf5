"""Pages of evaluations and rankings: every figure there, strangers' words as words, other files refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from quatrain.errors import DataError
from quatrain.report import write_results
from tests.report.pages import Page
from tests.report.test_run_page import EVIL, LONE_SURROGATE


def interval(mean: float, half: float = 0.02) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def evaluation(model: str = "org/model", accuracy: float = 0.4, text: str = "plain") -> dict[str, Any]:
    """As `quatrain eval` writes it."""
    choices = {
        "task": "mmlu",
        "source": text,
        "asked": "a1",
        "settings": {"shots": 0},
        "questions": 1531,
        "metrics": {"accuracy": interval(accuracy)},
        "mean_of_groups": {"accuracy": 0.41},
        "groups": {"accuracy": {f"{text} {i}": {"mean": i / 10, "questions": 12} for i in range(4)}},
        "figures": {},
        "notes": [text],
    }
    loss = {"task": text, "asked": "b2", "settings": {}, "questions": 7, "metrics": {"loss": interval(1.5)}}
    about = {"model": model, "fingerprint": "f" * 64, "quantization": "nf4", "versions": {"torch": "2.13"}}
    return about | {"tasks": {"mmlu-a1": choices, "loss-b2": loss}}


def ranking(text: str = "plain") -> dict[str, Any]:
    """As `quatrain judge` writes it."""
    standings = [
        {"system": f"{text} {i}", "elo": interval(1000 + i, 90), "davidson": interval(1100 + i, 9)}
        | {"elo_error": 1.0, "wins": 3, "ties": 2, "losses": 1}
        for i in range(3)
    ]
    counts = {"verdicts": 40026, "unparsed": 12, "matches": 9, "items": 953, "orders": 10, "samples": 5, "seed": 0}
    return {"standings": standings, "both_orders": "separate", **counts, "notes": [text]}


def written(tmp_path: Path, *contents: Any) -> Page:
    paths = [tmp_path / f"{i}.json" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Page(write_results(paths).read_text(encoding="utf-8"))


def test_an_evaluation_shows_each_task_with_its_intervals_and_groups(tmp_path: Path):
    shown = written(tmp_path, evaluation()).shown()
    for expected in ("mmlu", "1,531 examples", "40.0 (38.0 to 42.0)", "1.50 (1.48 to 1.52)", "torch"):
        assert expected in shown
    assert shown.index("plain 3") < shown.index("plain 0"), "groups from the best to the worst"


def test_several_models_stand_side_by_side_in_the_tasks_they_share(tmp_path: Path):
    other = evaluation("runs/first", 0.5)
    del other["tasks"]["loss-b2"]
    page = written(tmp_path, evaluation(), other)
    assert page.texts_of("h1") == ["model and first"]
    plot = page.texts_of("span")
    assert plot.index("40.0 (38.0 to 42.0)") < plot.index("50.0 (48.0 to 52.0)")
    assert page.texts_of("th") == ["accuracy by group", "model", "first"]
    assert (tmp_path / "0.html").exists()


def test_models_of_one_name_are_told_apart(tmp_path: Path):
    page = written(tmp_path, evaluation(), evaluation() | {"fingerprint": "9" * 64})
    assert page.texts_of("h1") == ["model ffffffff and model 99999999"]


def test_a_ranking_shows_ratings_and_counts(tmp_path: Path):
    shown = written(tmp_path, ranking()).shown()
    for expected in ("3 systems, judged in pairs", "1,000 (910 to 1,090)", "1,102 (1,093 to 1,111)", "40,026", "tied"):
        assert expected in shown


@pytest.mark.parametrize("make", [lambda: evaluation(EVIL, text=EVIL + LONE_SURROGATE), lambda: ranking(EVIL)])
def test_hostile_strings_stay_strings(tmp_path: Path, make):
    page = written(tmp_path, make())
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert page.shown().count(EVIL) > 5


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (["{"], "can't be read as JSON"),
        (["[1]"], "must hold an object"),
        ([{"a": 1}], "a page is made from"),
        ([evaluation(), ranking()], "a page is made from"),
        ([evaluation() | {"tasks": {"x": {"task": "mmlu"}}}], "tasks.x.asked"),
        ([ranking() | {"standings": [{"system": "x"}]}], "standings.0.elo"),
    ],
)
def test_other_files_are_refused_in_a_sentence(tmp_path: Path, contents: list[Any], said: str):
    with pytest.raises(DataError, match=said):
        written(tmp_path, *contents)
