"""Head and embedding in four bits, tied or not; a checkpoint of that is Quatrain's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from quatrain.errors import ConfigError
from quatrain.models import load_model, model_summary, save_quantized
from quatrain.quantization import QuantizedEmbedding, QuantizedLinear
from tests.models.families import config_of

IDS = torch.tensor([[1, 5, 9, 100, 44, 7, 2, 30]])
BOTH = {"quantize_head": True, "quantize_embeddings": True, "compute_dtype": "float32", "device": "cpu"}


def save(family: str, folder: Path, **changes) -> Path:
    config = config_of(family)
    config.update(changes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
def test_head_and_embedding_in_4_bits(tmp_path: Path, tied: bool):
    folder = save("llama", tmp_path / "plain", tie_word_embeddings=tied)
    model: Any = load_model(folder, **BOTH)[0]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
            theirs.get_submodule(name).weight.data = module.weight
    torch.testing.assert_close(logits(model), logits(theirs), atol=1e-6, rtol=1e-5)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, QuantizedEmbedding)
    assert (embedding.codes.data_ptr() == head.codes.data_ptr()) == tied
    names = [matrix.name for matrix in model_summary(model).quantized]
    assert ("lm_head.weight" in names) == (not tied)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_again(tmp_path: Path, tied: bool):
    model, _ = load_model(save("llama", tmp_path / "plain", tie_word_embeddings=tied), **BOTH)
    save_quantized(model, None, tmp_path / "saved")
    note = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]
    assert note["quant_method"] == "quatrain"
    again: Any = load_model(tmp_path / "saved", compute_dtype="float32", device="cpu")[0]
    assert torch.equal(logits(model), logits(again))
    shared = again.get_input_embeddings().codes.data_ptr() == again.get_output_embeddings().codes.data_ptr()
    assert shared == tied


def test_int4_is_saved_as_ours(tmp_path: Path):
    model, _ = load_model(save("llama", tmp_path / "plain"), quantization="int4", compute_dtype="float32", device="cpu")
    save_quantized(model, None, tmp_path / "saved")
    note = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]
    assert note["quant_method"] == "quatrain"
    again, _ = load_model(tmp_path / "saved", compute_dtype="float32", device="cpu")
    assert torch.equal(logits(model), logits(again))


def test_a_tied_head_is_not_torn_from_its_embedding(tmp_path: Path):
    folder = save("llama", tmp_path / "plain")
    with pytest.raises(ConfigError, match="one tensor in this model"):
        load_model(folder, quantize_head=True)
    with pytest.raises(ConfigError, match="one tensor in this model"):
        load_model(save("gemma3", tmp_path / "gemma"), **BOTH)


def test_a_4bit_checkpoint_keeps_its_choice(tmp_path: Path):
    folder = save("qwen2", tmp_path / "plain")
    model, _ = load_model(folder, keep_in_16bit=("o_proj", "layers.0.mlp.*"), compute_dtype="float32", device="cpu")
    kept = [t.name for t in model_summary(model).kept if t.reason.startswith("keep_in_16bit")]
    assert len(kept) == 2 + 3
    save_quantized(model, None, tmp_path / "saved")
    again, _ = load_model(tmp_path / "saved", compute_dtype="float32", device="cpu")
    assert torch.equal(logits(model), logits(again))
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert isinstance(theirs.model.layers[0].mlp.up_proj, torch.nn.Linear)
    with pytest.raises(ConfigError, match="made its choice"):
        load_model(tmp_path / "saved", quantize_head=True)


@pytest.mark.parametrize("double_quant", [True, False])
def test_looked_up_rows_equal_the_dequantized_table(tmp_path: Path, double_quant: bool):
    model, _ = load_model(save("opt", tmp_path / "plain"), block_size=32, double_quant=double_quant, **BOTH)
    table: Any = model.get_input_embeddings()
    ids = torch.randint(0, 160, (3, 5))
    assert torch.equal(table(ids), table.weight[ids])
    assert table(ids[:, :0]).shape == (3, 0, table.embedding_dim)
