"""What is counted as agreeing, and the tables."""

import json

import pytest

from benchmarks.exports import __main__ as program
from benchmarks.exports.continue_with import quatrain, quatrain_bf16, transformers
from benchmarks.exports.table import markdown

AGREEMENT = {"loss": 1.0, "kl": 1e-3, "max_logit_difference": 0.5, "same_choice": 0.99}


def asking(tmp_path):
    return program._Asking(tmp_path, ["a"], [[1]], None)


@pytest.mark.parametrize(
    ("expected", "found", "same", "prompts"),
    [
        ([[5, 6, 7]], [[5, 6, 7]], 1.0, 1),
        ([[5, 6, 7, 8]], [[5, 6, 9, 8]], 0.5, 0),
        ([[5, 2, 0, 0]], [[5, 2]], 1.0, 1),
        ([[5, 6]], [[]], 0.0, 0),
    ],
)
def test_tokens_count_up_to_the_first_that_differs(tmp_path, expected, found, same, prompts):
    row = asking(tmp_path).agreement("form", "engine", expected, found, exact=True)
    assert (row["same"], row["same_prompts"]) == (same, prompts)


def test_a_form_that_is_measured_anew_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "RESULT", tmp_path / "exports.json")
    distances = {"trained_loss": 1.1, "positions": 9, "written": AGREEMENT, "onto the original": AGREEMENT}
    row = {"form": "safetensors", "engine": "vllm", "exact": True, "same": 1.0, "same_prompts": 20}
    program.record([row], {"safetensors": distances}, {"device": "x"})
    program.record([row | {"form": "GGUF Q8_0", "engine": "llama.cpp", "exact": False}], {}, {"device": "x"})
    result = json.loads((tmp_path / "exports.json").read_text())
    assert list(result["continuations"]) == ["safetensors, vllm", "GGUF Q8_0, llama.cpp"]
    text = markdown(result)
    assert "| safetensors | 1.0000 | 1.0e-03 | 0.50 | 99.0% |" in text
    assert "| safetensors | vllm | 20 of 20 | 100.0% |" in text


def test_the_page_shows_the_result_file():
    page = (program.RESULT.parents[2] / "docs" / "export.md").read_text()
    assert all(table in page for table in markdown(program.read()).split("\n\n"))


def test_quatrain_and_transformers_continue_alike(tiny_llama_dir):
    order = {"model": str(tiny_llama_dir), "adapter": None, "prompts": [[3, 4, 5], [7, 8]], "new_tokens": 4}
    assert quatrain(order) == transformers(order)


def test_a_form_whose_reader_rounds_inputs_is_compared_with_both(tmp_path, monkeypatch):
    recorded = []
    monkeypatch.setattr(program, "record", lambda found, *_: recorded.extend(found))
    monkeypatch.setattr(program, "write", lambda form, *_, **__: (tmp_path / form.file, {}))
    monkeypatch.setattr(program, "questions", lambda base: (["a"], [[1]]))
    said = {"quatrain": [[5, 6]], "quatrain, BF16": [[5, 7]], "llama.cpp": [[5, 7]]}
    monkeypatch.setattr(program._Asking, "tokens", lambda self, engine, *_: said[engine])
    (tmp_path / "config.yaml").write_text("model: base\n")
    program.measure(tmp_path, None, ["GGUF BF16"], tmp_path)
    assert [(row["exact"], row["same"]) for row in recorded] == [(False, 0.5), (True, 1.0)]


def test_inputs_of_products_are_rounded(tiny_llama_dir, monkeypatch):
    import torch

    order = {"model": str(tiny_llama_dir), "adapter": None, "prompts": [[3, 4, 5]], "new_tokens": 2}
    seen, linear = [], torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, *rest: seen.append(x) or linear(x, *rest))
    quatrain_bf16(order)
    assert seen and all(x.dtype == torch.float32 and torch.equal(x, x.bfloat16().float()) for x in seen)
