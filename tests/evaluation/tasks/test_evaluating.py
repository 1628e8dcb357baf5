"""Answers are kept as they come, found again, and never mixed."""

import json
from dataclasses import replace

import pytest
import torch

from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora, detach_lora
from quatrain.errors import ConfigError, DataError, OutputError
from quatrain.evaluation import TaskConfig, TaskOptions, evaluate, read_evaluation, read_tasks, run_task
from quatrain.evaluation.tasks.multiple_choice import PreparedChoices
from tests.evaluation.tasks.conftest import measured, write_rows


def stop_after(monkeypatch, count: int) -> None:
    """Ctrl-C behind so many answers."""
    scored = PreparedChoices._scored
    seen = []

    def stopping(self, number, log_probs):
        if len(seen) == count:
            raise KeyboardInterrupt
        seen.append(number)
        return scored(self, number, log_probs)

    monkeypatch.setattr(PreparedChoices, "_scored", stopping)


def test_a_stopped_call_goes_on_where_it_was(loaded, quiz, tmp_path, monkeypatch):
    whole = measured(loaded, [str(quiz)], folder=tmp_path / "whole")
    folder = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2)
        measured(loaded, [str(quiz)], folder=folder)
    (path,) = folder.rglob("*.jsonl")
    with path.open("a") as file:
        file.write('{"question": 5, "sco')  # as a stop in the middle of a write leaves it
    with pytest.raises(DataError, match=r"isn't a file of answers|isn't finished"):
        read_evaluation(path.parent)
    seen = []
    result = measured(loaded, [str(quiz)], folder=folder, progress=lambda *at: seen.append(at))
    assert seen == [("quiz", done, 6) for done in (3, 4, 5, 6)]
    assert result.figures[0].answers == whole.figures[0].answers
    assert measured(loaded, [str(quiz)], folder=folder, progress=lambda *at: seen.append(at)) == result
    assert len(seen) == 4, "what is answered isn't asked again"
    assert read_evaluation(path.parent) == result


def test_others_answers_are_in_other_files(loaded, quiz, tmp_path):
    model, tokenizer = loaded
    short = read_tasks(f"exact_match={write_prompts(tmp_path)}", TaskOptions(max_new_tokens=2))
    first = evaluate(model, tokenizer, short, folder=tmp_path / "out")
    attach_lora(model, LoraConfig(r=2))
    try:
        untrained = evaluate(model, tokenizer, [str(quiz)], folder=tmp_path / "out")
        for parameter in adapter_parameters(model).values():
            torch.nn.init.normal_(parameter, std=0.5)
        trained = evaluate(model, tokenizer, [str(quiz)], folder=tmp_path / "out")
    finally:
        detach_lora(model)
    assert len({first.folder, untrained.folder, trained.folder}) == 3
    rows = tmp_path / "rows.jsonl"
    longer = read_tasks(f"exact_match={rows}", TaskOptions(max_new_tokens=3))
    again = evaluate(model, tokenizer, longer, folder=tmp_path / "out")
    assert again.folder == first.folder and again.figures[0].asked != first.figures[0].asked
    assert len(read_evaluation(first.folder).figures) == 2
    assert len(json.loads((first.folder / "results.json").read_text())["tasks"]) == 2
    with pytest.raises(DataError, match=r"only the same questions.*was asked rows, model quiz"):
        trained.differences_from(first)


def test_an_answer_may_hold_any_character(loaded, tmp_path, monkeypatch):
    said = "one\u2028two\x85three\nfour"
    monkeypatch.setattr("quatrain.evaluation.tasks.generation.answer_batches", lambda *_, **__: iter([{0: said}]))
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1 + 1?", "completion": said}])
    first = measured(loaded, [f"exact_match={rows}"], folder=tmp_path / "out")
    assert first.figures[0].answers[0].said == said
    assert measured(loaded, [f"exact_match={rows}"], folder=tmp_path / "out") == first
    assert read_evaluation(first.folder) == first


def write_prompts(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", ({"prompt": f"{n} + 1?", "completion": f"{n + 1}"} for n in range(3)))


def test_results_are_plain_json(loaded, quiz, tmp_path):
    result = measured(loaded, [str(quiz), f"loss={write_prompts(tmp_path)}"], folder=tmp_path, name="org/name: a b")
    assert result.folder.name.startswith("org-name-a-b-")
    told = json.loads((result.folder / "results.json").read_text())
    assert told["quantization"] == "nf4" and told["base"]["fingerprint"]
    quiz_told, loss_told = told["tasks"].values()
    assert quiz_told["questions"] == 6 and quiz_told["source"] == str(quiz)
    assert set(quiz_told["groups"]["acc"]) == {"even", "odd"} and quiz_told["groups"]["acc"]["odd"]["questions"] == 3
    assert set(loss_told["metrics"]) == {"loss", "perplexity"}


def test_differences_are_by_question(loaded, quiz, tmp_path):
    before = measured(loaded, [str(quiz)], folder=tmp_path)
    better = {
        number: replace(answer, scores={**answer.scores, "acc": 1.0})
        for number, answer in before.figures[0].answers.items()
    }
    after = replace(before, figures=(replace(before.figures[0], answers=better),))
    acc, norm = after.differences_from(before)
    wrong = sum(answer.scores["acc"] == 0 for answer in before.figures[0].answers.values())
    assert (acc.metric, acc.after) == ("acc", 1.0) and acc.change.mean == pytest.approx(wrong / 6)
    assert norm.change.mean == 0 and norm.verdict == "no difference shown"
    assert acc.verdict == ("higher" if 0 not in acc.change else "no difference shown")
    assert str(norm).endswith("+0.0000 (+0.0000 to +0.0000): no difference shown")
    fewer = replace(before.figures[0], answers={0: better[0]})
    with pytest.raises(DataError, match="the same questions"):
        after.figures[0].differences_from(fewer)


def test_answers_score_as_the_metric_says(loaded, tmp_path):
    rows = write_prompts(tmp_path)
    tasks = read_tasks(f"exact_match={rows},number_match={rows}", TaskOptions(max_new_tokens=3))
    figures = measured(loaded, tasks, folder=tmp_path / "out", batch_size=2).figures
    model, tokenizer = loaded
    for one in figures:
        metric = one.settings["metric"]
        result = run_task(model, tokenizer, TaskConfig(data=rows, metric=metric, max_new_tokens=3))
        assert one.metrics[metric].mean == result.score
        assert [one.answers[n].said for n in range(3)] == [answer.answer for answer in result.answers]


def test_wrong_folders(loaded, quiz, tmp_path):
    with pytest.raises(DataError, match="holds no answers"):
        read_evaluation(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be used for answers"):
        measured(loaded, [str(quiz)], folder=tmp_path / "file")
    result = measured(loaded, [str(quiz)], folder=tmp_path / "out")
    (path,) = result.folder.glob("*.jsonl")
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(header.replace('"model"', '"modell"') + "".join(lines))
    with pytest.raises(DataError, match="its first line lacks model"):
        read_evaluation(result.folder)
    with pytest.raises(DataError, match="holds answers to something else"):
        measured(loaded, [str(quiz)], folder=tmp_path / "out")
    for wrong in ("[]", "7", '{"question": 0}', '{"question": 0, "scores": {"acc": "high"}}', '{"closing": 1}'):
        path.write_text(f"{header}{wrong}\n")
        with pytest.raises(DataError, match="isn't a file of answers"):
            measured(loaded, [str(quiz)], folder=tmp_path / "out")
    (result.folder / "results.json").write_text("[]")
    path.unlink()
    with pytest.raises(OutputError, match="isn't a file of results"):
        measured(loaded, [str(quiz)], folder=tmp_path / "out")


def test_no_task_is_an_error(loaded, tmp_path):
    with pytest.raises(ConfigError, match="at least one task"):
        measured(loaded, [], tmp_path)


def test_wrong_rows_are_told_before_anything_is_answered(loaded, quiz, tmp_path):
    wrong = write_rows(tmp_path / "wrong.jsonl", [{"question": "x", "choices": ["a", "b"], "answer": "c"}])
    with pytest.raises(DataError, match="got 'c'"):
        measured(loaded, [str(quiz), str(wrong)], folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
