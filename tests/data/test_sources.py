"""A config's path is found as file, folder or hub data set."""

import json

import pytest

from quatrain.data import DataConfig
from quatrain.data.bad_rows import BadRows
from quatrain.data.sources import load_with_datasets, read_rows
from quatrain.errors import ConfigError, DataError


def write_rows(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def texts(path, **options) -> list[str]:
    config = DataConfig(path=str(path), **options)
    return [row.values["text"] for row in read_rows(config, BadRows(config))]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    write_rows(tmp_path / "b.jsonl", "3")
    write_rows(tmp_path / "a" / "train-00001.jsonl", "1", "2")
    write_rows(tmp_path / ".cache" / "hidden.jsonl", "no")
    (tmp_path / "README.md").write_text("no")
    (tmp_path / "c.csv").write_text("text\n4\n")
    assert texts(tmp_path) == ["1", "2", "3", "4"]
    assert texts(tmp_path, split="train") == ["1", "2"]
    assert texts(tmp_path, max_rows=3) == ["1", "2", "3"]
    with pytest.raises(DataError, match=r"`split` is 'test'.*a/train-00001.jsonl"):
        texts(tmp_path, split="test")


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match=r"holds no file that ends in \.jsonl"):
        texts(tmp_path)
    for path in (tmp_path / "a.jsonl", "train.jsonl", "data/train.csv", "a/b/c"):
        with pytest.raises(DataError, match="no such file or folder"):
            texts(path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match=r"must end in one of \.jsonl, \.json, \.csv, \.parquet"):
        texts(tmp_path / "a.txt")
    with pytest.raises(DataError, match="is one file, which has no splits"):
        texts(write_rows(tmp_path / "a.jsonl", "1"), split="train")


def test_a_hub_name_goes_to_datasets(monkeypatch):
    import datasets

    asked = []

    def load(name, subset, split):
        asked.append((name, subset, split))
        return [{"text": "1"}, {"text": "2"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert texts("org/name") == ["1", "2"]
    assert texts("org/name:test", max_rows=1) == ["1"]
    assert texts("name", split="train[:10]", subset="main") == ["1", "2"]
    assert asked == [("org/name", None, "train"), ("org/name", None, "test"), ("name", "main", "train[:10]")]
    config = DataConfig(path="org/name")
    row = next(read_rows(config, BadRows(config)))
    assert str(row.where) == "org/name (train), row 1"
    with pytest.raises(DataError, match="leave one out"):
        texts("org/name:test", split="train")


def test_datasets_itself_loads_a_folder(tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_rows(tmp_path / "set" / "train.jsonl", "1", "2")
    write_rows(tmp_path / "set" / "test.jsonl", "3")
    rows = list(load_with_datasets(str(tmp_path / "set"), None, "test"))
    assert [row.values for row in rows] == [{"text": "3"}]
    with pytest.raises(DataError, match=r"split 'dev'\) can't be loaded.*Check the name"):
        load_with_datasets(str(tmp_path / "set"), None, "dev")
    with pytest.raises(DataError, match="can't be loaded"):
        load_with_datasets(str(tmp_path / "none"), None, "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": " "}, "`path` must name"),
        ({"path": "a", "format": "sharegtp"}, "`format` must be one of auto, messages"),
        ({"path": "a", "train_on": "user"}, "`train_on` must be one of"),
        ({"path": "a", "max_rows": 0}, "`max_rows` must be a whole number"),
        ({"path": "a", "fields": {}}, "`fields` must map"),
        ({"path": "a", "fields": {"question": "prompt"}}, "`fields` names 'question', which is no column of ours"),
        ({"path": "a", "fields": {"prompt": 3}}, "`fields` must give 'prompt' the name of a column"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**options)
