"""A GGUF file of ours holds the merged model: read by our own reader, and by transformers' for the tokenizer.

llama.cpp itself loads what was exported in `make test-export`.
"""

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from quatrain.adapters import read_adapter
from quatrain.adapters.stored import StoredAdapter
from quatrain.errors import AdapterError, ModelError
from quatrain.exports import export, merge
from quatrain.exports.gguf.families import as_stored, rope_factors
from quatrain.models import load_model
from quatrain.models.gguf_config import llama3_scaling
from quatrain.models.gguf_writable import check_family, cutting_rule
from tests.conftest import make_tokenizer
from tests.exports.conftest import make_run
from tests.models.families import config_of

IDS = torch.arange(3, 40)[None]


def load(path):
    return load_model(path, quantization=None, compute_dtype="float32", device="cpu")


@pytest.mark.parametrize(("kind", "kl"), [("f16", 1e-6), ("bf16", 1e-5), ("q8_0", 1e-4)])
def test_it_holds_the_merged_model(kind, kl, run, tmp_path, tokenizer):
    result = export(run, tmp_path / "out", to="gguf", gguf_type=kind)
    assert result.compared is not None and result.compared.written.kl < kl
    _, ours = load(tmp_path / "out" / "model.gguf")
    text = "The quick brown fox said: 12 + 7?\n"
    assert ours(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert ours.chat_template == tokenizer.chat_template and ours.eos_token == tokenizer.eos_token


def test_types_are_what_was_asked_for(run, tmp_path):
    export(run, tmp_path / "out", to="gguf", gguf_type="q8_0", measure=False)
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_down.weight"] == "F16", "rows of 176 aren't whole blocks of 32"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_other_families(family, rows, tmp_path, tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, vocab_size=512))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.5)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    run = make_run(tmp_path / "run", tmp_path / "base", rows, tokenizer)
    result = export(run, tmp_path / "out", to="gguf")
    assert result.compared is not None and result.compared.written.kl < 1e-5


def test_a_gguf_file_is_a_base_too(run, rows, tokenizer, tmp_path):
    export(run, tmp_path / "out", to="gguf", measure=False)
    again = make_run(tmp_path / "run", tmp_path / "out" / "model.gguf", rows, tokenizer)
    compared = merge(again, tmp_path / "merged", dtype="float16").compared
    assert compared is not None and compared.written.kl < 1e-5
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(tmp_path / "merged")


def test_rows_of_queries_lie_as_llama_cpp_turns_them():
    config = config_of("llama")
    rows = torch.arange(config.num_attention_heads * 8.0).reshape(-1, 1)
    stored = as_stored("llama", config, "blk.0.attn_q.weight", rows)
    assert stored[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(as_stored("llama", config, "blk.0.attn_v.weight", rows), rows)
    assert torch.equal(as_stored("qwen2", config, "blk.0.attn_q.weight", rows), rows)


def test_llama_3s_factors_are_those_that_reading_recognises():
    config = config_of("llama")
    config.head_dim = 64
    config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = rope_factors(config)
    assert factors is not None and llama3_scaling(factors, 500000.0) == config.rope_parameters
    assert check_family(config) == "llama"


@pytest.mark.parametrize("family", ["gemma2", "phi3"])
def test_families_without_a_row_are_refused(family):
    with pytest.raises(ModelError, match=f"{family}.*convert_hf_to_gguf"):
        check_family(config_of(family))


def test_a_sliding_window_is_refused():
    check_family(config_of("mistral", sliding_window=None))
    with pytest.raises(ModelError, match="sliding windows"):
        check_family(config_of("mistral", sliding_window=16))


def test_unknown_ways_of_cutting_text_are_refused():
    from tokenizers import pre_tokenizers

    tokenizer = make_tokenizer()
    assert cutting_rule(tokenizer) == "gpt-2"
    digits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(digits)  # pyright: ignore
    assert cutting_rule(tokenizer) == "smollm"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    with pytest.raises(ModelError, match="another one"):
        cutting_rule(tokenizer)


def adapter_tensors(path: Path) -> dict[str, torch.Tensor]:
    return {t.name: torch.from_numpy(t.data.copy()) for t in GGUFReader(path).tensors}


@pytest.mark.parametrize("rslora", [False, True])
def test_the_adapter_alone_computes_the_same_change(rslora, tiny_llama_dir, rows, tokenizer, tmp_path):
    from quatrain.adapters import LoraConfig

    lora = LoraConfig(r=4, lora_alpha=7, use_rslora=rslora)
    run = make_run(tmp_path / "run", tiny_llama_dir, rows, tokenizer, lora=lora)
    export(run, tmp_path / "out", to="lora-gguf")
    reader = GGUFReader(tmp_path / "out" / "adapter.gguf")
    assert reader.fields["general.type"].contents() == "adapter"
    alpha = reader.fields["adapter.lora.alpha"].contents()
    found = adapter_tensors(tmp_path / "out" / "adapter.gguf")
    stored: StoredAdapter = read_adapter(run / "adapter")
    assert len(found) == 2 * len(stored.layers)
    for name, module in (("blk.1.ffn_up", "mlp.up_proj"), ("blk.1.attn_v", "self_attn.v_proj")):
        change = found[f"{name}.weight.lora_b"] @ found[f"{name}.weight.lora_a"] * (alpha / 4)
        torch.testing.assert_close(change, stored.layers[f"model.layers.1.{module}"].delta())


def test_llama_cpp_takes_plain_lora_only(tiny_llama_dir, rows, tokenizer, tmp_path):
    from quatrain.adapters import LoraConfig

    run = make_run(tmp_path / "run", tiny_llama_dir, rows, tokenizer, lora=LoraConfig(r=2, use_dora=True))
    with pytest.raises(AdapterError, match="DoRA"):
        export(run, tmp_path / "out", to="lora-gguf")
