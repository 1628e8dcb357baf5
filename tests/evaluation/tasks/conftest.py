"""A subject to ask, and files of rows."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quatrain.evaluation import Evaluation, Task, evaluate
from quatrain.evaluation.tasks.subject import Subject
from quatrain.models import load_model


@pytest.fixture(scope="module")
def loaded(tiny_llama_dir):
    return load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")


@pytest.fixture
def subject(loaded, tmp_path) -> Subject:
    model, tokenizer = loaded
    return Subject(model, tokenizer, "tiny", 4, tmp_path / "evaluations")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def quiz(tmp_path) -> Path:
    """Six questions with whole choices of several tokens, in two subjects."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "how", "many"]
    rows = [
        {
            "question": f"what is {' '.join(words[i : i + 3])}?",
            "choices": [" ".join(words[j : j + 1 + (i + j) % 4]) for j in range(2 + i % 3)],
            "answer": i % 2,
            "subject": "odd" if i % 2 else "even",
        }
        for i in range(6)
    ]
    return write_rows(tmp_path / "quiz.jsonl", rows)


def measured(loaded: tuple[Any, Any], tasks: Sequence[str | Task], folder: Path, **settings: Any) -> Evaluation:
    """`evaluate` for a model and its tokenizer as they are loaded."""
    model, tokenizer = loaded
    return evaluate(model, tokenizer, tasks, folder=folder, **settings)
