"""An adapter from two models: the difference of their linears, or what of it the rank can hold."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from quatrain.adapters import load_adapter, read_adapter
from quatrain.errors import AdapterError, ConfigError, ModelError, OutputError
from quatrain.models import load_model
from quatrain.models.extracting import extract_adapter

IDS = torch.tensor([[5, 9, 100, 44, 7, 30]])


def changed(base, out, change, **settings):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        change(model)
    model.save_pretrained(out, **settings)
    return out


def by_rank_3(model):
    for name, parameter in model.named_parameters():
        if "proj" in name:
            parameter += 0.1 * torch.randn(parameter.shape[0], 3) @ torch.randn(3, parameter.shape[1])


def logits(folder, adapter=None):
    model, _ = load_model(folder, quantization=None, compute_dtype="float32", device="cpu")
    if adapter is not None:
        load_adapter(model, adapter)
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("shards", ["1GB", "70KB"])
def test_a_difference_of_low_rank_comes_back_whole(tiny_llama_dir, tmp_path, shards):
    tuned = changed(tiny_llama_dir, tmp_path / "tuned", by_rank_3, max_shard_size=shards)
    seen = []
    result = extract_adapter(tiny_llama_dir, tuned, tmp_path / "out", r=3, progress=lambda *at: seen.append(at))
    assert result.kept > 1 - 1e-9 and not result.left_out and len(result.adapter.layers) == 14
    torch.testing.assert_close(logits(tiny_llama_dir, tmp_path / "out"), logits(tuned), rtol=1e-4, atol=1e-4)
    assert seen[-1][0] == seen[-1][1] and str(tmp_path / "out") in str(result)
    provenance = read_adapter(tmp_path / "out").provenance
    assert provenance is not None and provenance.made == "extracted at rank 3 from tuned"
    assert provenance.base is not None and provenance.base.name == str(tiny_llama_dir)


def test_peft_loads_it_on_the_base(tiny_llama_dir, tmp_path):
    from peft import PeftModel

    tuned = changed(tiny_llama_dir, tmp_path / "tuned", by_rank_3)
    extract_adapter(tiny_llama_dir, tuned, tmp_path / "out", r=4)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    torch.testing.assert_close(theirs(IDS).logits, logits(tuned), rtol=1e-4, atol=1e-4)


def test_what_a_rank_cannot_hold_is_measured(tiny_llama_dir, tmp_path):
    tuned = changed(tiny_llama_dir, tmp_path / "tuned", by_rank_3)
    result = extract_adapter(tiny_llama_dir, tuned, tmp_path / "out", r=1)
    before, after = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (tiny_llama_dir, tuned))
    lost = total = 0.0
    for name in result.adapter.layers:
        delta = after.get_parameter(f"{name}.weight") - before.get_parameter(f"{name}.weight")
        values = torch.linalg.svdvals(delta.detach()).square()
        lost, total = lost + float(values[1:].sum()), total + float(values.sum())
    assert result.kept == pytest.approx(1 - lost / total, abs=1e-5)


def test_only_layers_that_differ_get_an_adapter_and_the_rest_is_named(tiny_llama_dir, tmp_path):
    def change(model):
        model.model.layers[1].self_attn.q_proj.weight += torch.randn(64, 1) @ torch.randn(1, 64)
        model.model.norm.weight[:4] += 0.5

    tuned = changed(tiny_llama_dir, tmp_path / "tuned", change)
    result = extract_adapter(tiny_llama_dir, tuned, tmp_path / "out", r=2)
    assert list(read_adapter(tmp_path / "out").layers) == ["model.layers.1.self_attn.q_proj"]
    assert result.left_out == {"model.norm.weight": pytest.approx(1.0)} and "model.norm.weight" in str(result)


def test_weights_of_gpt2_lie_the_other_way_round(tmp_path):
    from transformers import GPT2Config

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=512, n_embd=48, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path / "base")

    def change(model):
        weight = model.transformer.h[0].attn.c_attn.weight
        weight += torch.randn(48, 1) @ torch.randn(1, weight.shape[1])

    tuned = changed(tmp_path / "base", tmp_path / "tuned", change)
    extract_adapter(tmp_path / "base", tuned, tmp_path / "out", r=1)
    torch.testing.assert_close(logits(tmp_path / "base", tmp_path / "out"), logits(tuned), rtol=1e-4, atol=1e-4)


def test_two_models_that_cannot_be_compared(tiny_llama_dir, tmp_path):
    from quatrain.models import save_quantized

    with pytest.raises(AdapterError, match="nothing to extract"):
        extract_adapter(tiny_llama_dir, tiny_llama_dir, tmp_path / "out")
    wider = AutoModelForCausalLM.from_pretrained(tiny_llama_dir).config
    wider.intermediate_size = 192
    AutoModelForCausalLM.from_config(wider).save_pretrained(tmp_path / "wider")
    with pytest.raises(ModelError, match="one architecture"):
        extract_adapter(tiny_llama_dir, tmp_path / "wider", tmp_path / "out")
    wider.num_hidden_layers, wider.intermediate_size = 1, 176
    AutoModelForCausalLM.from_config(wider).save_pretrained(tmp_path / "shorter")
    with pytest.raises(ModelError, match=r"shorter has no model\.layers\.1"):
        extract_adapter(tiny_llama_dir, tmp_path / "shorter", tmp_path / "out")
    save_quantized(*load_model(tiny_llama_dir, device="cpu"), tmp_path / "small")  # pyright: ignore
    with pytest.raises(ModelError, match="four bits"):
        extract_adapter(tiny_llama_dir, tmp_path / "small", tmp_path / "out")
    broken = changed(
        tiny_llama_dir, tmp_path / "broken", lambda m: m.model.layers[0].mlp.up_proj.weight.fill_(torch.nan)
    )
    with pytest.raises(ModelError, match=r"up_proj.weight must be finite"):
        extract_adapter(tiny_llama_dir, broken, tmp_path / "out")
    with pytest.raises(ConfigError, match="`r`"):
        extract_adapter(tiny_llama_dir, broken, tmp_path / "out", r=0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match="holds something"):
        extract_adapter(tiny_llama_dir, broken, tiny_llama_dir)
