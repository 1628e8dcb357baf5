"""Small texts in the shapes of GSM8K and OASST."""

import json
from pathlib import Path
from typing import Any

import pytest


def tree(number: int) -> dict[str, Any]:
    """A question with two replies."""
    replies = [
        {
            "message_id": f"{number}-{rank}",
            "text": f"there are {number + rank} apples",
            "role": "assistant",
            "rank": rank,
        }
        for rank in range(2)
    ]
    asked = {"message_id": str(number), "text": f"how many apples are in {number}?", "role": "prompter"}
    return {"message_tree_id": str(number), "prompt": asked | {"replies": replies}}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What GSM8K and OASST are set to: 20 rows for training, 5 to test, 10 trees."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [
        {"question": f"how many apples are {n} + 7?", "answer": f"there are {n + 7}\n#### {n + 7}"} for n in range(25)
    ]
    write_lines(folder / "train.jsonl", rows[:20])
    write_lines(folder / "test.jsonl", rows[20:])
    write_lines(folder / "trees.jsonl", [tree(n) for n in range(10)])
    return {"gsm8k": str(folder), "oasst": str(folder / "trees.jsonl")}
