"""GGUF as a source of weights: what llama.cpp's converter does to a model is undone, and transformers agrees."""

import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from quatrain.errors import ModelError
from quatrain.models import load_model, load_tokenizer, model_summary
from quatrain.models.gguf_config import llama3_scaling
from quatrain.models.gguf_file import LAYOUTS, GgufFile
from tests.conftest import make_tokenizer
from tests.models.families import config_of

VOCABULARY = len(make_tokenizer())
IDS = torch.tensor([[1, 5, 9, 100, 44, 7, 2, 30]])
# GGUF's architecture, and the family that it holds; Mistral's models are stored as llama.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
}


def interleave(x: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write_gguf(path: Path, architecture: str, model, tokenizer, extra=(), quantize: bool = False) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(20000.0)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    write_tokenizer(writer, tokenizer)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None
        value = tensor.float().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            value = interleave(value, heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1
        if quantize and value.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(stored, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, np.ascontiguousarray(value))
    for name, value in extra:
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens) | {"<|im_start|>"}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_bos_token_id(vocabulary["<|endoftext|>"])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_pad_token_id(vocabulary["<|endoftext|>"])
    writer.add_chat_template(tokenizer.chat_template)


def random_model(family: str, **changes):
    config = config_of(family)
    config.update({"vocab_size": VOCABULARY} | changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_and_settings_equal_what_transformers_reads(tmp_path: Path, tokenizer, architecture: str):
    path = tmp_path / "model.gguf"
    # transformers reads no head width for Qwen 3 and takes the 128 that all published ones have.
    changes = {"head_dim": 128} if architecture == "qwen3" else {}
    write_gguf(path, architecture, random_model(ARCHITECTURES[architecture], **changes), tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ours, _ = load_model(path, quantization=None, compute_dtype="float32", device="cpu")
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6, msg=name)
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_configuration_is_the_one_that_transformers_reads(tmp_path: Path, tokenizer, architecture: str):
    path = tmp_path / "model.gguf"
    changes = {"head_dim": 128} if architecture == "qwen3" else {}
    write_gguf(path, architecture, random_model(ARCHITECTURES[architecture], **changes), tokenizer)
    theirs = AutoConfig.from_pretrained(tmp_path, gguf_file=path.name).to_dict()
    ours = GgufFile(path).config().to_dict()
    assert ours | {"_name_or_path": ""} == theirs | {"_name_or_path": ""}


@pytest.fixture
def llama_gguf(tmp_path: Path, tokenizer) -> Path:
    path = tmp_path / "llama.gguf"
    write_gguf(path, "llama", random_model("llama"), tokenizer, quantize=True)
    return path


def test_special_tokens_template_and_end(llama_gguf: Path, tokenizer):
    model, loaded = load_model(llama_gguf, compute_dtype="float32", device="cpu")
    assert len(loaded.encode("<|im_start|>", add_special_tokens=False)) == 1
    assert loaded.encode("how many apples?") == tokenizer.encode("how many apples?")
    chat = [{"role": "user", "content": "12 + 7"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)
    assert loaded.eos_token == "<|im_end|>"
    assert loaded.pad_token_id is not None
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.rope_parameters["rope_theta"] == 20000.0
    assert load_tokenizer(llama_gguf).get_vocab() == loaded.get_vocab()


def test_blocks_are_in_4_bits_and_large_tensors_come_in_slabs(llama_gguf: Path, monkeypatch):
    whole, _ = load_model(llama_gguf, compute_dtype="float32", device="cpu")
    monkeypatch.setattr("quatrain.models.gguf_file.SLAB", 1000)
    slabs, _ = load_model(llama_gguf, compute_dtype="float32", device="cpu")
    assert torch.equal(logits(whole), logits(slabs))
    assert len(model_summary(whole).quantized) == 2 * 7


def test_an_architecture_without_a_layout_is_refused(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="llama, qwen2"):
        load_model(tmp_path / "a.gguf")


def test_a_torn_file_is_refused(llama_gguf: Path, tmp_path: Path):
    whole = llama_gguf.read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 40):
        torn = tmp_path / "torn.gguf"
        torn.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="whole GGUF"):
            load_model(torn)


def test_a_tensor_without_a_place_is_refused(tmp_path: Path, tokenizer):
    path = tmp_path / "more.gguf"
    write_gguf(
        path, "qwen2", random_model("qwen2"), tokenizer, extra=[("blk.0.mystery.weight", np.zeros(3, np.float32))]
    )
    with pytest.raises(ModelError, match=r"blk\.0\.mystery"):
        load_model(path)


def test_llama3_rotary_factors_become_config(tmp_path: Path, tokenizer):
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 20000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = random_model("llama", rope_parameters=scaling, head_dim=64)
    plain = 20000.0 ** -(torch.arange(32) / 32)
    factors = plain / model.model.rotary_emb.inv_freq
    assert float(factors.max()) == pytest.approx(8.0)
    path = tmp_path / "llama3.gguf"
    write_gguf(path, "llama", model, tokenizer, extra=[("rope_freqs.weight", factors.numpy())])
    ours, _ = load_model(path, quantization=None, compute_dtype="float32", device="cpu")
    torch.testing.assert_close(ours.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    torch.testing.assert_close(logits(ours), logits(model), atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError, match="Llama 3's rotary factors"):
        llama3_scaling(factors.flip(0), 20000.0)


def test_every_layout_is_tried_above():
    assert set(ARCHITECTURES) == set(LAYOUTS)


@pytest.mark.smollm2
def test_smollm2_equals_transformers():
    if "QUATRAIN_SMOLLM2" not in os.environ:
        pytest.skip("QUATRAIN_SMOLLM2 must be the path of SmolLM2's GGUF file")
    path = Path(os.environ["QUATRAIN_SMOLLM2"])
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours, tokenizer = load_model(path, quantization=None, compute_dtype="float32", device="cpu")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(**ids).logits, theirs(**ids).logits, atol=1e-4, rtol=1e-4)
    assert tokenizer.encode("<|im_start|>") == [1]
    assert ours.config.tie_word_embeddings
    assert ours.config.rope_parameters["rope_theta"] == 100000.0
    generate: Any = ours.generate
    answer = tokenizer.decode(generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :])
    assert "Paris" in answer
