"""Loss and perplexity against transformers' own."""

import math

import pytest
import torch

from quatrain.evaluation import TaskOptions, evaluate, read_tasks
from tests.evaluation.tasks.conftest import write_rows


@pytest.mark.parametrize("max_length", [2048, 12])
def test_perplexity_is_that_of_transformers(loaded, tmp_path, max_length):
    model, tokenizer = loaded
    texts = ["the quick brown fox jumps", "over the lazy dog, user and assistant", "how many apples are there? 12 + 7"]
    rows = write_rows(tmp_path / "texts.jsonl", ({"text": text} for text in texts))
    tasks = read_tasks(f"loss={rows}", TaskOptions(max_length=max_length))
    figures = evaluate(model, tokenizer, tasks, folder=tmp_path / "out").figures[0]
    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id][:max_length]])
        with torch.no_grad():
            total += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    told = figures.to_dict()["metrics"]
    assert told["loss"]["mean"] == pytest.approx(total / tokens, abs=1e-4)
    assert told["perplexity"]["mean"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert told["perplexity"]["low"] == pytest.approx(math.exp(told["loss"]["low"]))
    assert sum(answer.weight for answer in figures.answers.values()) == tokens
    assert bool(figures.closing.notes) == (max_length == 12)


def test_only_replies_count(loaded, tmp_path):
    model, tokenizer = loaded
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "1 + 1?", "completion": "2"}])
    figures = evaluate(model, tokenizer, [f"loss={rows}"], folder=tmp_path / "out").figures[0]
    assert figures.answers[0].weight == len(tokenizer("2<|im_end|>")["input_ids"])
