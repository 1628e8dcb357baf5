"""What is counted as agreeing, and the tables."""

import json

import pytest

from benchmarks.exports import __main__ as program
from benchmarks.exports.continue_with import quatrain, transformers
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


def test_quatrain_and_transformers_continue_alike(tiny_llama_dir):
    order = {"model": str(tiny_llama_dir), "adapter": None, "prompts": [[3, 4, 5], [7, 8]], "new_tokens": 4}
    assert quatrain(order) == transformers(order)
