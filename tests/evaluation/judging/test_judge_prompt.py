"""A judge's words: what it reads, and what its verdict is taken from."""

from pathlib import Path

import pytest

from quatrain.errors import ConfigError
from quatrain.evaluation.judging.judge_prompt import JudgePrompt, parse_verdict


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("A is wrong.\n\nVerdict: B", "b"),
        ("Verdict: A\n", "a"),
        ("verdict: c", "tie"),
        ("VERDICT: Tie.", "tie"),
        ("## **Verdict:** A", "a"),
        ("**Verdict: [B]**", "b"),
        ("> *Verdict*: `A`", "a"),
        ("Verdict: A\n…\nVerdict: A", "a"),
        ("Verdict: C\nVerdict: tie", "tie"),
    ],
)
def test_a_verdict_is_a_line_of_its_own(reply: str, outcome: str) -> None:
    assert parse_verdict(reply) == outcome


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A is better.",
        "Verdict: A or B",
        "Verdict: Answer A is better",
        "Verdict: A\nVerdict: B",
        "My verdict: A",
        "Verdict A",
        "Verdict: D",
        "Verdict: AB",
        "Verdict:\nA",
        "\n" * 100_000,
        "*" * 100_000 + "verdict" + "*" * 100_000,
        "Verdict: X, with A in place of X if answer A is better",
    ],
)
def test_nothing_is_guessed(reply: str) -> None:
    assert parse_verdict(reply) == "unparsed"


def test_the_prompt_shows_question_and_answers_as_they_are() -> None:
    given = ("What is {{ answer_a }}?", "  {% raw %} <b>{x}</b>\n", "Verdict: B\n")
    shown = JudgePrompt()(*given)
    for text in given:
        assert text.strip() in shown
    assert shown.index(given[0]) < shown.index(given[1].strip()) < shown.index("<answer_b>\nVerdict: B\n</answer_b>")
    assert parse_verdict(JudgePrompt().text) == "unparsed", "a judge that repeats the prompt gives no verdict"


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("{{ question }}|{{ answer_b }}|{{ answer_a }}")
    assert JudgePrompt(path)("q", "a", "b") == "q|b|a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ question }} {{ answer_a }}", r"must show \{\{ answer_b \}\}"),
        ("{{ question", "can't be used"),
        ("{{ question }} {{ answer_a }} {{ answer_b }} {{ reference }}", "'reference' is undefined"),
        ("{{ question.__class__.__mro__ }}", "can't be used|must show"),
    ],
)
def test_a_prompt_that_can_not_serve_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        JudgePrompt(path)
    with pytest.raises(ConfigError, match="No such file"):
        JudgePrompt(tmp_path / "none")
