"""A merge is PEFT's merge, loads as a stranger would load it, and says how near it is to base + adapter."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from quatrain.adapters import LoraConfig, load_adapter, read_adapter
from quatrain.errors import AdapterError, ConfigError, OutputError
from quatrain.exports import merge
from quatrain.models import load_model, save_quantized
from quatrain.quantization import QuantizedLinear
from tests.exports.conftest import make_run

IDS = torch.arange(3, 40)[None]


def tensors_of(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_onto_the_original_it_is_pefts_merge_rounded_once(run, tiny_llama_dir, tmp_path, dtype):
    from peft import PeftModel

    merge(run, tmp_path / "out", base="original", dtype=dtype, measure=False)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, run / "adapter").merge_and_unload().state_dict()
    ours = tensors_of(tmp_path / "out")
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    for name, tensor in ours.items():
        # The product B·A may differ in its last bit, which may round to the neighbour.
        torch.testing.assert_close(tensor, theirs[name].to(getattr(torch, dtype)), rtol=2**-7, atol=1e-6, msg=name)


def test_onto_the_dequantized_it_is_what_was_trained(run, tiny_llama_dir, tmp_path):
    result = merge(run, tmp_path / "out", dtype="float16")
    assert result.compared is not None and result.compared.other is not None
    assert result.compared.written.kl < 1e-6 < result.compared.other.kl
    trained, _ = load_model(tiny_llama_dir, device="cpu", compute_dtype="float32")
    layer = trained.model.layers[1].mlp.up_proj
    assert isinstance(layer, QuantizedLinear)
    change = read_adapter(run / "adapter").layers["model.layers.1.mlp.up_proj"].delta()
    found = tensors_of(tmp_path / "out")["model.layers.1.mlp.up_proj.weight"]
    torch.testing.assert_close(found, (layer.weight + change).half(), rtol=2**-10, atol=1e-7)
    assert "KL" in str(result) and "other base" in str(result)


def test_transformers_loads_it_and_says_what_base_and_adapter_say(run, tiny_llama_dir, tmp_path, tokenizer):
    merge(run, tmp_path / "out", dtype="float16")
    trained = load_adapter(load_model(tiny_llama_dir, device="cpu", compute_dtype="float32")[0], run / "adapter")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(theirs(IDS).logits, trained(IDS).logits, rtol=0, atol=2e-3)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "float16"
    assert "quantization_config" not in config


def test_it_is_written_in_shards(run, tmp_path):
    merge(run, tmp_path / "out", max_shard_size="40KB", measure=False)
    merge(run, tmp_path / "whole", measure=False)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    pieces, whole = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "whole")
    assert index["weight_map"].keys() == pieces.keys() == whole.keys()
    assert all(torch.equal(pieces[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    "lora",
    [
        LoraConfig(r=4, use_dora=True),
        LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["down_proj"]),
        LoraConfig(r=4, trainable_token_indices=(3, 9)),
        LoraConfig(r=2, use_rslora=True, layers_to_transform=[1]),
    ],
    ids=["dora", "modules_to_save", "token_rows", "rslora"],
)
def test_other_kinds_of_adapter_merge_too(lora, tiny_llama_dir, rows, tokenizer, tmp_path):
    run = make_run(tmp_path / "run", tiny_llama_dir, rows, tokenizer, lora=lora)
    compared = merge(run, tmp_path / "out", dtype="float16").compared
    assert compared is not None and compared.written.kl < 1e-5


def test_an_adapter_by_itself_merges_as_it_says_that_it_was_trained(run, tmp_path):
    alone = shutil.copytree(run / "adapter", tmp_path / "adapter")
    merge(alone, tmp_path / "out", device="cpu", dtype="float16")
    merge(run, tmp_path / "whole", measure=False, dtype="float16")
    ours, whole = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "whole")
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_a_base_in_16_bits_has_one_base_only(tiny_llama_dir, rows, tokenizer, tmp_path):
    run = make_run(tmp_path / "run", tiny_llama_dir, rows, tokenizer, quantization=None)
    result = merge(run, tmp_path / "out")
    assert result.onto == "original" and result.compared is not None and result.compared.other is None


def test_a_base_in_four_bits_needs_its_original_named(tiny_llama_dir, rows, tokenizer, tmp_path):
    save_quantized(*load_model(tiny_llama_dir, device="cpu", compute_dtype="float32"), tmp_path / "nf4")
    run = make_run(tmp_path / "run", tmp_path / "nf4", rows, tokenizer)
    compared = merge(run, tmp_path / "a", dtype="float16").compared
    assert compared is not None and compared.written.kl < 1e-6 and compared.other is None
    assert "quantized_from" not in json.loads((tmp_path / "a" / "config.json").read_text())
    with pytest.raises(AdapterError, match="`original`"):
        merge(run, tmp_path / "b", base="original")
    compared = merge(run, tmp_path / "b", base="original", original=tiny_llama_dir, dtype="float16").compared
    assert compared is not None and compared.other is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "nf4", "run"]


def test_too_far_from_the_trained_model_fails_and_leaves_nothing(run, tmp_path):
    with pytest.raises(AdapterError, match="nats from base"):
        merge(run, tmp_path / "out", base="original", tolerance=1e-9)
    assert not list(tmp_path.iterdir())


def test_progress_is_told(run, tmp_path):
    told = []
    merge(run, tmp_path / "out", progress=lambda *at: told.append(at))
    assert {what for what, *_ in told} == {"merging", "reading with base + adapter", "comparing"}
    assert all(done <= total for _, done, total in told)


@pytest.mark.parametrize("wrong", [{"base": "both"}, {"dtype": "float32"}])
def test_wrong_arguments(wrong, run, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        merge(run, tmp_path / "out", **wrong)


def test_what_is_no_run_is_refused(tiny_llama_dir, run, tmp_path):
    with pytest.raises(ConfigError, match="neither a run nor an adapter"):
        merge(tiny_llama_dir, tmp_path / "out")
    with pytest.raises(OutputError, match="holds something"):
        merge(run, tiny_llama_dir)
