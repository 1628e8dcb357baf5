"""Questions out of all kinds of rows, and answers to them from files."""

import json
from pathlib import Path

import pytest

from quatrain.data import DataConfig
from quatrain.errors import ConfigError, DataError
from quatrain.evaluation.judging.answers import read_answers
from quatrain.evaluation.judging.folder import ComparisonFolder
from quatrain.evaluation.judging.open_questions import OpenQuestion, read_open_questions
from tests.evaluation.judging.drawn import SHARED


def rows_file(folder: Path, *rows: dict, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(folder: Path, *rows: dict, **settings) -> list[OpenQuestion]:
    return read_open_questions(DataConfig(path=str(rows_file(folder, *rows)), **settings))


def test_rows_of_each_kind(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    more = [*turns, {"role": "user", "content": "Why?"}]
    (text,) = questions(tmp_path, {"question_id": 7, "text": "How?", "category": "generic"})
    assert text == OpenQuestion("7", ({"role": "user", "content": "How?"},)) and text.text == "How?"
    first, second = questions(tmp_path, {"messages": turns}, {"messages": more})
    assert (first.item, first.messages) == ("1", tuple(turns[:1])) and second.messages == tuple(more)
    assert second.text == "User: Hi\n\nAssistant: Yes?\n\nUser: Why?"
    (prompt,) = questions(tmp_path, {"id": "x", "question": "1 + 1?"}, fields={"text": "question"})
    assert (prompt.item, prompt.text) == ("x", "1 + 1?")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "line 2.*'1' occurs a second time"),
        ([{"text": " "}], "line 1.*no question in it"),
        ([{"messages": [{"role": "assistant", "content": "Hello"}]}], "no question in it"),
    ],
)
def test_what_is_no_question(tmp_path: Path, rows: list[dict], said: str) -> None:
    with pytest.raises(DataError, match=said):
        questions(tmp_path, *rows)


def test_the_vicuna_questions() -> None:
    path = SHARED / "judgments" / "vicuna_questions.jsonl"
    if not path.is_file():
        pytest.skip("needs shared/data beside the repository")
    found = read_open_questions(DataConfig(path=str(path)))
    assert [question.item for question in found] == [str(number) for number in range(1, 81)]


def test_answers_of_others(tmp_path: Path) -> None:
    by_name = rows_file(tmp_path, {"question_id": 2, "text": "b", "model": "m"}, {"question_id": 1, "text": ""})
    assert read_answers(by_name) == {"2": "b", "1": ""}
    by_place = rows_file(tmp_path, {"prompt": "p", "completion": "c"}, {"prompt": "q", "completion": "d"})
    assert read_answers(by_place) == {"1": "c", "2": "d"}
    for rows, said in (([{"item": 1}], "an answer stands in answer"), ([{"id": 1, "answer": ""}] * 2, "a second time")):
        with pytest.raises(DataError, match=said):
            read_answers(rows_file(tmp_path, *rows))


def test_a_folder_keeps_its_questions(tmp_path: Path) -> None:
    folder, asked = ComparisonFolder(tmp_path / "new"), questions(tmp_path, {"id": "ü", "text": "How?"})
    with pytest.raises(DataError, match="has no questions yet"):
        folder.questions()
    folder.ask(asked)
    folder.ask(asked)
    assert folder.questions() == asked and not folder.answers()
    with pytest.raises(ConfigError, match="has other questions already"):
        folder.ask(questions(tmp_path, {"text": "Why?"}))
    with pytest.raises(DataError, match="holds no verdicts yet"):
        folder.verdicts()
    for name in ("a/b", "", ".x", "llama3:8b"):
        with pytest.raises(ConfigError, match="a name becomes a file's"):
            folder.verdict_log(name)
