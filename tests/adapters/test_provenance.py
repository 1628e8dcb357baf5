"""An adapter says what it was trained on, doesn't go onto another base unseen, and others don't notice the record."""

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from quatrain.adapters import (
    LoraConfig,
    adapter_parameters,
    attach_lora,
    base_identity,
    load_adapter,
    provenance_of,
    read_provenance,
    save_adapter,
)
from quatrain.adapters.provenance import template_fingerprint, to_metadata, tokenizer_fingerprint
from quatrain.errors import AdapterError
from quatrain.models import load_model, save_quantized

WEIGHTS = "adapter_model.safetensors"


def load(folder, **options):
    settings: dict[str, Any] = {"device": "cpu", "compute_dtype": "float32"} | options
    return load_model(folder, **settings)[0]


@pytest.fixture
def adapter(tiny_llama_dir, tmp_path, tokenizer):
    model = attach_lora(load(tiny_llama_dir), LoraConfig(r=2, target_modules=["q_proj"]))
    for parameter in adapter_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return save_adapter(model, tmp_path / "adapter", provenance=provenance_of(model, tokenizer))


def other_base(folder, to):
    """The same architecture with one tensor retrained."""
    shutil.copytree(folder, to)
    shard = sorted(to.glob("*.safetensors"))[0]
    tensors = load_file(shard)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, shard, metadata={"format": "pt"})
    return to


def test_it_says_what_the_adapter_was_trained_on(adapter, tiny_llama_dir, tokenizer):
    said = read_provenance(adapter / WEIGHTS)
    assert said is not None and said.base is not None
    assert said.base.name == str(tiny_llama_dir) and len(said.base.fingerprint) == 64
    assert (said.quantization, said.block_size, said.double_quant) == ("nf4", 64, True)
    assert said.compute_dtype == "float32" and {"quatrain", "torch"} <= said.versions.keys()
    assert said.tokenizer == tokenizer_fingerprint(tokenizer)
    assert said.chat_template == template_fingerprint(tokenizer) is not None


def test_the_same_adapter_is_the_same_file(adapter, tiny_llama_dir, tmp_path):
    model = load_adapter(load(tiny_llama_dir), adapter)
    files = [save_adapter(model, tmp_path / str(i)) / WEIGHTS for i in range(8)]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("options", [{"quantization": None}, {"quantization": "fp4", "block_size": 128}])
def test_the_same_base_otherwise_stored_is_the_same_base(options, adapter, tiny_llama_dir):
    load_adapter(load(tiny_llama_dir, **options), adapter)


def test_other_shards_are_the_same_base(tiny_llama_dir, tmp_path):
    whole = load(tiny_llama_dir, quantization=None)
    whole.save_pretrained(tmp_path / "one")
    again = base_identity(load(tmp_path / "one"))
    first = base_identity(whole)
    assert first is not None and again is not None and first.fingerprint == again.fingerprint


def test_a_quantized_checkpoint_of_the_base_is_the_same_base(adapter, tiny_llama_dir, tmp_path):
    save_quantized(load(tiny_llama_dir), None, tmp_path / "nf4")
    quantized = load(tmp_path / "nf4")
    origin, other = base_identity(quantized), base_identity(load(tiny_llama_dir))
    assert origin is not None and other is not None and origin.origin == other.fingerprint != origin.fingerprint
    load_adapter(quantized, adapter)
    trained_there = save_adapter(quantized, tmp_path / "there")
    load_adapter(load(tiny_llama_dir), trained_there)


def test_another_base_is_refused_with_both_names_unless_forced(adapter, tiny_llama_dir, tmp_path):
    other = other_base(tiny_llama_dir, tmp_path / "other")
    model = load(other)
    with pytest.raises(AdapterError) as error:
        load_adapter(model, adapter)
    assert str(tiny_llama_dir) in str(error.value) and str(other) in str(error.value) and "force" in str(error.value)
    assert not adapter_parameters(model), "nothing is changed"
    assert adapter_parameters(load_adapter(model, adapter, force=True))


def test_what_is_unknown_is_not_refused(adapter, tiny_llama_dir, tmp_path):
    from transformers import AutoModelForCausalLM

    load_adapter(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), adapter)
    tensors = load_file(adapter / WEIGHTS)
    save_file(tensors, adapter / WEIGHTS, metadata={"format": "pt"})
    assert read_provenance(adapter / WEIGHTS) is None
    load_adapter(load(other_base(tiny_llama_dir, tmp_path / "other")), adapter)


@pytest.mark.parametrize("record", ["{", "[]", '{"base": {"name": 3}}', '{"versions": {"torch": null}}'])
def test_a_damaged_record_is_an_error(record, adapter, tiny_llama_dir):
    save_file(load_file(adapter / WEIGHTS), adapter / WEIGHTS, metadata={"quatrain": record})
    with pytest.raises(AdapterError, match="damaged"):
        load_adapter(load(tiny_llama_dir), adapter)


def test_fields_of_later_versions_are_passed_over(adapter, tiny_llama_dir):
    model = load(tiny_llama_dir)
    with safe_open(adapter / WEIGHTS, "pt") as file:
        record = json.loads(file.metadata()["quatrain"])
    save_file(load_file(adapter / WEIGHTS), adapter / WEIGHTS, {"quatrain": json.dumps(record | {"later": [1]})})
    load_adapter(model, adapter)


def test_a_commit_of_the_hub_is_kept(tiny_llama_dir, tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123456789abcdef"
    shutil.copytree(tiny_llama_dir, snapshot)
    model = attach_lora(load(snapshot), LoraConfig(r=2))
    folder = save_adapter(model, tmp_path / "adapter")
    said = read_provenance(folder / WEIGHTS)
    assert said is not None and said.base is not None and said.base.revision == "0123456789abcdef"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["revision"] == "0123456789abcdef" and config["base_model_name_or_path"] == str(snapshot)


def test_peft_and_transformers_load_it(adapter, tiny_llama_dir):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(3, 20)[None]
    ours = load_adapter(load(tiny_llama_dir, quantization=None), adapter)(tokens).logits
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), adapter)
    torch.testing.assert_close(theirs(tokens).logits, ours, rtol=1e-5, atol=1e-5)
    direct = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    direct.load_adapter(str(adapter))
    torch.testing.assert_close(direct(tokens).logits, ours, rtol=1e-5, atol=1e-5)


def test_fingerprints_tell_vocabularies_and_templates_apart(tokenizer):
    from tests.conftest import make_tokenizer

    other = make_tokenizer(None)
    assert tokenizer_fingerprint(other) == tokenizer_fingerprint(tokenizer)
    assert template_fingerprint(other) is None
    other.add_tokens(["<new>"])
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)


def test_the_record_survives_its_own_reading(adapter, tmp_path):
    said = read_provenance(adapter / WEIGHTS)
    assert said is not None
    later = replace(said, compute_dtype="bfloat16")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", to_metadata(later))
    assert read_provenance(tmp_path / "x.safetensors") == later
