"""Adapters that are damaged or another base's, and disks that are full: one line, and nothing left behind."""

import json
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file

from quatrain.errors import AdapterError, ModelError, OutputError
from quatrain.exports import export, merge

TARGETS = ["safetensors", "bnb-4bit", "gguf", "ollama", "lora-gguf"]
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.fixture
def own_run(run, tmp_path):
    """A copy to damage."""
    return shutil.copytree(run, tmp_path / "run")


def edit(run, change):
    path = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def shorten(run):
    path = run / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def zero(tensors):
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def another_rank(tensors):
    tensors[KEY + "A.weight"], tensors[KEY + "B.weight"] = torch.ones(3, 64), torch.ones(64, 3)


def without_a_layer(tensors):
    del tensors[KEY + "A.weight"], tensors[KEY + "B.weight"]


DAMAGES = {
    "rank": (lambda run: edit(run, another_rank), "rank"),
    "missing keys": (lambda run: edit(run, lambda t: t.pop(KEY + "A.weight")), "pairs"),
    "a missing layer": (lambda run: edit(run, without_a_layer), "no tensors"),
    "extra keys": (lambda run: edit(run, lambda t: t.update({"x": torch.ones(1)})), "'x'"),
    "truncated": (shorten, "damaged"),
    "zero": (lambda run: edit(run, zero), "changes nothing"),
    "not finite": (lambda run: edit(run, lambda t: t[KEY + "B.weight"].fill_(torch.nan)), "finite"),
    "overflowing": (lambda run: edit(run, lambda t: t[KEY + "B.weight"].fill_(3e38)), "finite"),
}


@pytest.mark.parametrize("to", ["safetensors", "bnb-4bit", "gguf"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused(damage, to, own_run, tmp_path):
    harm, words = DAMAGES[damage]
    harm(own_run)
    with pytest.raises(AdapterError, match=words):
        export(own_run, tmp_path / "out", to=to, measure=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_another_base_is_refused_with_both_names(own_run, tiny_llama_dir, tmp_path):
    other = shutil.copytree(tiny_llama_dir, tmp_path / "other")
    shard = sorted(other.glob("*.safetensors"))[0]
    tensors = load_file(shard)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, shard, {"format": "pt"})
    config = own_run / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny_llama_dir), str(other)))
    with pytest.raises(AdapterError) as error:
        merge(own_run, tmp_path / "out")
    assert str(tiny_llama_dir) in str(error.value) and str(other) in str(error.value)
    assert not (tmp_path / "out").exists()
    merge(own_run, tmp_path / "out", force=True, measure=False)


def test_a_base_of_another_shape_is_refused_even_by_force(own_run, tiny_llama_dir, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_llama_dir)
    config.hidden_size, config.num_hidden_layers = 128, 1
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wide")
    path = own_run / "config.yaml"
    path.write_text(path.read_text().replace(str(tiny_llama_dir), str(tmp_path / "wide")))
    with pytest.raises(AdapterError, match="base or rank"):
        merge(own_run, tmp_path / "out", force=True)


@contextmanager
def files_of_at_most(size: int):
    """The system refuses to make a file longer, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("size", [200, 3_000, 10_000])
def test_a_full_disk_leaves_nothing(to, size, run, tmp_path):
    with files_of_at_most(size), pytest.raises(OutputError, match=r"can't be written|as it was written"):
        export(run, tmp_path / "out", to=to, measure=False)
    assert not list(tmp_path.iterdir())


def test_a_shard_that_reads_back_otherwise_is_found(run, tmp_path, monkeypatch):
    def flawed(tensors, path, metadata):
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, path, metadata)

    monkeypatch.setattr("safetensors.torch.save_file", flawed)
    with pytest.raises(OutputError, match="as it was written"):
        merge(run, tmp_path / "out", measure=False)
    assert not list(tmp_path.iterdir())


def test_a_base_that_vanished_is_an_error_of_one_line(own_run, tmp_path):
    config = own_run / "config.yaml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join("model: /nowhere/base" if li.startswith("model:") else li for li in lines))
    with pytest.raises(ModelError, match="/nowhere/base"):
        merge(own_run, tmp_path / "out")


def test_what_f16_has_no_room_for_is_refused(own_run, tmp_path):
    path = own_run / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * 1e4 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(AdapterError, match=r"F16 has no room for \(beyond 65504\)"):
        export(own_run, tmp_path / "out", to="gguf", measure=False, force=True)
    export(own_run, tmp_path / "out", to="gguf", gguf_type="bf16", measure=False, force=True)


def test_a_scale_of_zero_changes_nothing(own_run, tmp_path):
    path = own_run / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 0}))
    with pytest.raises(AdapterError, match="changes nothing"):
        merge(own_run, tmp_path / "out")


def test_without_a_tokenizer_there_is_nothing_to_compare_on(own_run, tiny_llama_dir, tmp_path):
    base = shutil.copytree(tiny_llama_dir, tmp_path / "base", ignore=shutil.ignore_patterns("tokenizer*"))
    config = own_run / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny_llama_dir), str(base)))
    with pytest.raises(ModelError, match="has no tokenizer: add its tokenizer"):
        merge(own_run, tmp_path / "out")
    merge(own_run, tmp_path / "out", measure=False)
