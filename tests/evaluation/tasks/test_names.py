"""What names stand for."""

from typing import Any

import pytest

from quatrain.data import DataConfig
from quatrain.errors import ConfigError, DataError
from quatrain.evaluation import read_tasks
from quatrain.evaluation.tasks import MultipleChoice, TaskOptions, harness, names
from tests.evaluation.tasks.conftest import write_rows


def read(names: str, options: TaskOptions | None = None) -> list[Any]:
    """The tasks, to be looked into."""
    return list(read_tasks(names, options))


@pytest.fixture(autouse=True)
def no_harness(monkeypatch):
    """As where lm-evaluation-harness isn't installed; reading its index takes seconds."""
    monkeypatch.setattr(names, "is_installed", lambda: False)
    monkeypatch.setattr(harness, "is_installed", lambda: False)


def test_known_data_sets_come_from_the_hub_or_a_copy(tmp_path):
    copy = write_rows(tmp_path / "val.json", [{"subject": "s", "input": "A. x\nB. y\nAnswer:", "output": "A"}])
    whole, split, mine = read(f"mmlu, mmlu=cais/mmlu:validation,mmlu={copy}", TaskOptions(max_rows=5))
    assert whole.data == DataConfig(path="cais/mmlu", subset="all", split="test", max_rows=5)
    assert split.data == DataConfig(path="cais/mmlu:validation", subset="all", max_rows=5)
    assert mine.data == DataConfig(path=str(copy), max_rows=5)
    assert all(isinstance(task, MultipleChoice) and task.style == "letters" for task in (whole, split, mine))
    (school,) = read("gsm8k")
    assert school.config.metric == "number_match" and school.source == "openai/gsm8k"
    assert school.config.data.fields == {"prompt": "question", "completion": "answer"}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"subject": "s", "input": "A. x\nB. y\nAnswer:", "output": "A"}, "letters"),
        ({"question": "x", "choices": ["a", "b"], "answer": 0}, "whole"),
        ({"question": "x", "answer": "#### 3"}, "number_match"),
    ],
)
def test_rows_alone_show_what_they_are(tmp_path, row, kind):
    (task,) = read(str(write_rows(tmp_path / "rows.jsonl", [row])))
    assert kind in task.settings.values()


def test_rows_that_dont_show_it_say_how_to(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "x", "completion": "y"}])
    with pytest.raises(ConfigError, match=r"columns: completion, prompt.*loss=.*exact_match="):
        read(str(path))
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read(str(path))


def test_rows_for_names_that_have_none():
    rows = DataConfig(path="r.jsonl", fields={"prompt": "q", "completion": "a"})
    loss, exact, school = read("loss,exact_match,gsm8k", TaskOptions(data=rows, max_rows=2, max_length=9))
    assert loss.data.max_rows == 2 and loss.max_length == 9 and loss.name == exact.name == "r"
    assert exact.config.metric == "exact_match" and school.config.data.fields == rows.fields
    with pytest.raises(ConfigError, match=r"'loss' needs rows: loss=rows.jsonl, or --data"):
        read("loss")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "mmul",
            r"no task, file or folder 'mmul'. Did you mean 'mmlu'\? Ours are mmlu.*pip install 'quatrain\[eval\]'",
        ),
        ("exact_mach=rows.jsonl", r"Did you mean 'exact_match'"),
        ("nothing/like/it.jsonl", r"no task, file or folder 'nothing/like/it.jsonl'. Ours"),
        (" , ", "name at least one task"),
        ("lm_eval:hellaswag", r"'hellaswag' is asked through lm-evaluation-harness: pip install 'quatrain\[eval\]'"),
    ],
)
def test_wrong_names(text, said):
    with pytest.raises(ConfigError, match=said):
        read(text)


def test_the_harness_names_are_known_where_it_is_installed(monkeypatch):
    for module in (names, harness):
        monkeypatch.setattr(module, "is_installed", lambda: True)
    monkeypatch.setattr(names, "harness_names", lambda: ["hellaswag", "mmlu"])
    plain, prefixed, ours = read("hellaswag,lm_eval:mmlu,mmlu", TaskOptions(num_fewshot=3, chat=True))
    assert (plain.task, plain.num_fewshot, plain.chat) == ("hellaswag", 3, True)
    assert prefixed.task == "mmlu" and isinstance(ours, MultipleChoice)
    for wrong in ("hellaswg", "lm_eval:hellaswg"):
        with pytest.raises(ConfigError, match="Did you mean 'hellaswag'"):
            read(wrong)
