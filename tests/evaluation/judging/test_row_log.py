"""Rows that are made once: settings that stay, torn lines, one writer."""

from pathlib import Path

import pytest

from quatrain.errors import CheckpointError, ConfigError, DataError, OutputError
from quatrain.evaluation.judging.row_log import read_log, row_log, settings_file

SETTINGS = {"model": "x", "seed": 0, "prompt": "…"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "gpt-3.5.jsonl"


def values(path: Path) -> list[dict]:
    return [row.values for row in read_log(path)]


def test_rows_are_there_at_once_and_again(path: Path) -> None:
    with row_log(path, SETTINGS) as log:
        assert log.rows == []
        log.append([{"item": "1", "answer": "zwei\nZeilen \u2028"}, {"item": "2", "answer": "\ud800"}])
        assert [row["item"] for row in values(path)] == ["1", "2"]
    with row_log(path, dict(reversed(SETTINGS.items()))) as log:
        assert [row.values["answer"] for row in log.rows] == ["zwei\nZeilen \u2028", "?"]
        log.append([{"item": "3"}])
    assert [row["item"] for row in values(path)] == ["1", "2", "3"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["gpt-3.5.jsonl", "gpt-3.5.settings.json"]


def test_a_torn_line_is_left_out_and_removed(path: Path) -> None:
    with row_log(path, SETTINGS) as log:
        log.append([{"item": "1"}])
    with path.open("ab") as file:
        file.write(b'{"item": "2", "ans')
    assert values(path) == [{"item": "1"}]
    with row_log(path, SETTINGS) as log:
        assert len(log.rows) == 1
        log.append([{"item": "2"}])
    assert values(path) == [{"item": "1"}, {"item": "2"}]


def test_other_settings_are_refused_once_there_are_rows(path: Path) -> None:
    with row_log(path, SETTINGS):
        pass
    with row_log(path, {**SETTINGS, "seed": 1}) as log:
        log.append([{"item": "1"}])
    with (
        pytest.raises(ConfigError, match=r"seed was 1, is 2; top_p was None, is 0.5"),
        row_log(path, {**SETTINGS, "seed": 2, "top_p": 0.5}),
    ):
        pass


def test_one_process_writes(path: Path) -> None:
    with (
        row_log(path, SETTINGS),
        pytest.raises(CheckpointError, match="one run at a time"),
        row_log(path, SETTINGS),
    ):
        pass


@pytest.mark.parametrize("line", ["[1]", "nonsense", '{"item": '])
def test_what_is_no_row_is_named(path: Path, line: str) -> None:
    with row_log(path, SETTINGS) as log:
        log.append([{"item": "1"}])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match="line 2, byte 14: "):
        read_log(path)


def test_settings_that_are_lost_or_no_settings(path: Path) -> None:
    with row_log(path, SETTINGS) as log:
        log.append([{"item": "1"}])
    for damage in (lambda: settings_file(path).write_text("[]"), lambda: settings_file(path).unlink()):
        damage()
        with pytest.raises(DataError, match=r"gpt-3\.5\.settings\.json must"), row_log(path, SETTINGS):
            pass


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((OutputError, CheckpointError)), row_log(tmp_path / "file" / "x.jsonl", SETTINGS):
        pass
