"""`quatrain eval` and `quatrain compare` as a person runs them."""

import json
from pathlib import Path

import pytest

from quatrain.data.rows import Place, Row


def models_folder(out: str) -> Path:
    """The folder that the last line names."""
    return Path(out.rstrip().splitlines()[-1].removeprefix("answers and results: "))


@pytest.fixture
def quiz(tmp_path):
    rows = [
        {
            "question": f"{n} + 1?",
            "choices": [str(n + 1), f"not {n}"],
            "answer": 0,
            "subject": "odd" if n % 2 else "even",
        }
        for n in range(4)
    ]
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_eval_measures_loss_and_answers(quatrain, run_folder, rows, tmp_path):
    arguments = ("eval", run_folder, "--data", rows, "--max-new-tokens", 2, "--out", tmp_path / "out")
    code, text, shown = quatrain(*arguments, "--tasks", "loss,exact_match")
    assert code == 0 and all(metric in text for metric in ("loss", "perplexity", "exact_match", "95 % interval"))
    assert "8 rows → 8 samples" in shown and "8 rows" not in text
    folder = models_folder(text)
    assert folder.parent == tmp_path / "out" and folder.name.startswith("run-")
    told = json.loads((folder / "results.json").read_text())["tasks"].values()
    assert [list(task["metrics"]) for task in told] == [["loss", "perplexity"], ["exact_match"]]
    assert models_folder(quatrain(*arguments)[1]) == folder, "without --tasks it is the loss"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what to measure: --tasks mmlu,gsm8k, or --data"),
        (("--data", "{rows}", "--field", "prompt"), "`--field` looks like prompt=question"),
        (("--data", "{rows}", "--format", "pdf"), "`format` must be one of"),
        (("--tasks", "mmlo"), "there is no task, file or folder 'mmlo'. Did you mean 'mmlu'"),
    ],
)
def test_wrong_usage_costs_no_model(quatrain, rows, monkeypatch, arguments, said):
    monkeypatch.setattr("quatrain.evaluation.tasks.names.is_installed", lambda: False)
    code, _, err = quatrain("eval", "no/such/model", *(str(part).format(rows=rows) for part in arguments))
    assert code != 0 and said in err and err.count("\n") == 1


def test_eval_reads_what_its_options_name(quatrain, run_folder, tmp_path, monkeypatch):
    for name, count in (("train", 3), ("test", 2)):
        line = json.dumps({"prompt": "1 + 1?", "completion": "2"}) + "\n"
        (tmp_path / f"{name}.jsonl").write_text(line * count)
    out = ("--out", tmp_path / "out")
    options = ("--split", "test", "--format", "prompt_completion", "--max-length", 64, *out)
    code, _, shown = quatrain("eval", run_folder, "--data", tmp_path, *options)
    assert code == 0 and "2 rows → 2 samples" in shown
    asked = []

    def hub(*name_subset_split):
        asked.append(name_subset_split)
        return iter([Row(Place("rows", 1), {"prompt": "1 + 1?", "completion": "2"})])

    monkeypatch.setattr("quatrain.data.sources.load_with_datasets", hub)
    code, _, _ = quatrain("eval", run_folder, "--data", "org/name", "--subset", "main", "--split", "test", *out)
    assert code == 0 and asked == [("org/name", "main", "test")]


def test_a_run_against_its_base(quatrain, run_folder, quiz, tmp_path):
    out = tmp_path / "out"
    code, text, _ = quatrain("eval", run_folder, "--tasks", quiz, "--against", "base", "--groups", "--out", out)
    assert code == 0 and "even" in text and "acc, mean of 2 groups" in text
    assert "difference" in text and "all are equal" in text and "no difference shown" in text
    folders = sorted(out.iterdir())
    assert len(folders) == 2
    after = models_folder(text)
    (before,) = set(folders) - {after}
    code, compared, _ = quatrain("compare", before, after, "--out", tmp_path / "difference.json")
    assert code == 0 and "no difference shown" in compared
    told = json.loads((tmp_path / "difference.json").read_text())
    assert [one["metric"] for one in told["differences"]] == ["acc", "acc_norm"]
    assert set(told["differences"][0]["change"]) == {"mean", "low", "high"}
    code, again, _ = quatrain("eval", run_folder, "--tasks", quiz, "--against", before, "--out", out)
    assert code == 0 and compared.split("\n", 1)[1].strip() in again


def test_names_out_of_files_are_words(quatrain, run_folder, tmp_path):
    path = tmp_path / "[b]quiz.jsonl"
    path.write_text(json.dumps({"question": "x?", "choices": ["a", "b"], "answer": 0, "subject": "[/b]"}) + "\n")
    code, text, _ = quatrain("eval", run_folder, "--tasks", path, "--groups", "--out", tmp_path / "out")
    assert code == 0 and "[b]quiz" in text and "[/b]" in text


def test_a_base_against_itself_is_refused(quatrain, tiny_llama_dir, quiz, tmp_path):
    arguments = ("eval", tiny_llama_dir, "--tasks", quiz, "--device", "cpu", "--out", tmp_path / "out")
    code, _, err = quatrain(*arguments, "--against", "base")
    assert code == 2 and "has no adapter, so its base is itself" in err
    code, _, err = quatrain(*arguments, "--against", tmp_path)
    assert code == 1 and "quiz.jsonl isn't a file of answers" in err


def test_ctrl_c_says_how_to_go_on(quatrain, run_folder, quiz, tmp_path, monkeypatch):
    def stopped(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("quatrain.cli.measuring.evaluate", stopped)
    code, out, err = quatrain("eval", run_folder, "--tasks", quiz, "--out", tmp_path / "out")
    assert code == 130 and not out and "the same command goes on" in err
