"""The demo's data set: it is what its generator writes, and its held-out rows can't be passed by heart."""

import json
import runpy
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "examples" / "support_json"


def read(part: str) -> list[list[dict]]:
    text = (FOLDER / f"{part}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["messages"] for line in text.splitlines()]


def answers(part: str) -> list[dict]:
    return [json.loads(row[-1]["content"]) for row in read(part)]


@pytest.mark.parametrize("part, size", [("train", 600), ("heldout", 100)])
def test_the_generator_writes_the_committed_rows(part: str, size: int):
    generator = runpy.run_path(str(FOLDER / "generate.py"))
    phrases = yaml.safe_load((FOLDER / "phrases.yaml").read_text(encoding="utf-8"))
    assert [row["messages"] for row in generator["rows_of"](phrases, part)] == read(part)
    assert len(read(part)) == size


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_every_answer_can_be_read_off_its_message(part: str):
    for row, answer in zip(read(part), answers(part), strict=True):
        message = row[1]["content"]
        assert list(answer) == ["topic", "product", "order", "urgent"]
        assert answer["product"] in message.lower()
        assert answer["order"] is None or answer["order"] in message
        assert "{" not in message


def test_nothing_is_shared_between_training_and_held_out_rows():
    assert not {row[1]["content"] for row in read("train")} & {row[1]["content"] for row in read("heldout")}
    for field in ("product", "order"):
        train, heldout = ({answer[field] for answer in answers(part)} - {None} for part in ("train", "heldout"))
        assert not train & heldout


def test_no_guess_alone_is_often_right():
    for part in ("train", "heldout"):
        rows = answers(part)
        assert 0.25 < sum(answer["urgent"] for answer in rows) / len(rows) < 0.55
        assert {answer["topic"] for answer in rows} == {
            "delivery",
            "damaged",
            "wrong_item",
            "refund",
            "cancel",
            "invoice",
        }
