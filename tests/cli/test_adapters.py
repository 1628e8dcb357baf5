"""`quatrain adapters` as a person runs it."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora, read_adapter, save_adapter
from quatrain.models import load_model


def trained(base, folder, **settings):
    model, _ = load_model(base, device="cpu")
    for parameter in adapter_parameters(attach_lora(model, LoraConfig(r=4, **settings))).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return save_adapter(model, folder)


@pytest.fixture(scope="module")
def two(tiny_llama_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return trained(tiny_llama_dir, folder / "math"), trained(tiny_llama_dir, folder / "code=0", target_modules="q_proj")


def test_help_teaches_each(quatrain):
    for command in ("show", "combine", "extract", "convert"):
        assert command in quatrain("adapters", "--help")[1]
        assert quatrain("adapters", command, "--help")[0] == 0
    assert quatrain("adapters")[0] == 2


def test_show_tells_rank_norms_and_provenance(quatrain, two, tiny_llama_dir):
    code, out, err = quatrain("adapters", "show", two[0])
    assert code == 0 and not err
    for words in ("layers: 14, rank 4", f"base: {tiny_llama_dir}", "base stored in: nf4", "‖ΔW‖ by layer", "quatrain"):
        assert words in out
    lines = [line.split() for line in out.splitlines() if line.startswith("model.layers.")]
    assert [line[0] for line in lines] == ["model.layers.0", "model.layers.1"] and len(lines[0]) == 8
    norms = [layer.delta().norm() for layer in read_adapter(two[0]).layers.values()]
    assert math.hypot(*(float(n) for line in lines for n in line[1:])) == pytest.approx(math.hypot(*norms), rel=1e-2)


def test_show_takes_a_run(quatrain, run_folder):
    code, out, _ = quatrain("adapters", "show", run_folder)
    assert code == 0 and "layers: 14, rank 2" in out


def test_combine_reads_weights_behind_folders(quatrain, two, tmp_path):
    out = tmp_path / "mixed"
    code, said, _ = quatrain("adapters", "combine", f"{two[0]}=-0.5", two[1], "--out", out, "--combination-type", "cat")
    assert code == 0 and "14 layers of rank 4 to 8" in said and "0.00%" in said
    math, code_, mixed = (read_adapter(folder).layers for folder in (*two, out))
    for name, layer in mixed.items():
        expected = -0.5 * math[name].delta() + (code_[name].delta() if name in code_ else 0)
        torch.testing.assert_close(layer.delta(), expected, rtol=1e-5, atol=1e-5)


def test_convert_says_what_was_lost(quatrain, two, tmp_path):
    code, said, _ = quatrain("adapters", "convert", two[0], tmp_path / "small", "--r", 2)
    assert code == 0 and "14 layers of rank 2; it differs" in said


def test_extract_makes_an_adapter_of_two_models(quatrain, tiny_llama_dir, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += torch.randn(176, 1) @ torch.randn(1, 64)
    model.save_pretrained(tmp_path / "tuned")
    code, said, _ = quatrain("adapters", "extract", tiny_llama_dir, tmp_path / "tuned", tmp_path / "out", "--r", 2)
    assert code == 0 and "1 layers of rank 2 that hold 100.00%" in said


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["show", "nowhere"], 1, "no adapter_config.json"),
        (["combine", "a=much", "--out", "x"], 2, "a weight is a number"),
        (["combine", "a", "--out", "x", "--combination-type", "ties"], 2, "density"),
        (["combine", "nowhere", "--out", "x"], 1, "no adapter_config.json"),
        (["convert", "nowhere", "x", "--r", "2"], 1, "no adapter_config.json"),
        (["extract", "./nowhere", "./nothing", "x"], 1, "there is no nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(quatrain, tmp_path, monkeypatch, arguments, status, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = quatrain("adapters", *arguments)
    assert code == status and not out and words in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
