"""Folders of `quatrain eval` become a result file and a table, and the docs show the table of the file."""

import json

from benchmarks import evaluations
from quatrain.evaluation import evaluate
from quatrain.models import load_model


def test_folders_become_rows_and_differences(tiny_llama_dir, tmp_path):
    model, tokenizer = load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")
    quiz = tmp_path / "quiz.jsonl"
    rows = [{"question": f"{n}?", "choices": ["a b", "c"], "answer": 0, "subject": f"s{n % 2}"} for n in range(4)]
    quiz.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folders = [evaluate(model, tokenizer, [str(quiz)], folder=tmp_path, name=name).folder for name in ("one", "two")]
    result = evaluations.collected(folders)
    assert [(row["model"], row["metric"], row["groups"]) for row in result["rows"]] == [
        ("one", "acc", 2),
        ("one", "acc_norm", 2),
        ("two", "acc", 2),
        ("two", "acc_norm", 2),
    ]
    assert [(one["model"], one["verdict"]) for one in result["differences"]] == [("two", "no difference shown")] * 2
    written = evaluations.table(result)
    assert written.count("| two | quiz |") == 4 and "mean of 2 groups" in written


def test_the_docs_show_the_result_file():
    result = json.loads(evaluations.RESULT.read_text(encoding="utf-8"))
    assert evaluations.table(result) in evaluations.PAGE.read_text(encoding="utf-8")
