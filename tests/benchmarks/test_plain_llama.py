"""The gate's reference against transformers' Llama in float32, base and adapter."""

from pathlib import Path

import pytest
import torch

from benchmarks import checkpoints
from benchmarks.plain_llama import PlainLlama
from benchmarks.shapes import SHAPES


@pytest.mark.parametrize("name", ["tiny", "gate_1b"])
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path):
    from transformers import LlamaForCausalLM

    checkpoints.ensure(name, tmp_path)
    plain = PlainLlama(tmp_path / name, SHAPES[name], scale=2.0)
    model = LlamaForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32, attn_implementation="eager")
    adapter = {}
    with torch.no_grad():
        for key, module in model.model.named_modules(prefix="model"):
            if not isinstance(module, torch.nn.Linear):
                continue
            a, b = torch.randn(4, module.in_features), 0.1 * torch.randn(module.out_features, 4)
            adapter |= {f"{key}.lora_A": a, f"{key}.lora_B": b}
            module.weight.copy_(plain.weights[f"{key}.weight"] + 2.0 * b @ a)
        ids = torch.randint(0, SHAPES[name].vocabulary, (2, 19))
        expected = model(input_ids=ids, labels=ids)
        assert len(adapter) == 2 * 7 * SHAPES[name].blocks
        torch.testing.assert_close(plain.logits(ids, adapter), expected.logits, rtol=1e-3, atol=1e-3)
        assert plain.loss(ids, adapter).item() == pytest.approx(expected.loss.item(), rel=1e-5)


def test_weights_of_the_blocks_went_through_four_bits(tmp_path: Path):
    from safetensors.torch import load_file

    checkpoints.ensure("tiny", tmp_path)
    stored = load_file(tmp_path / "tiny" / "model-00001.safetensors")
    plain = PlainLlama(tmp_path / "tiny", SHAPES["tiny"])
    name = "model.layers.1.mlp.up_proj.weight"
    error = (plain.weights[name] - stored[name].float()).norm() / stored[name].float().norm()
    assert 0.05 < error < 0.12  # NF4's rounding of a normal distribution
    norm = "model.layers.1.input_layernorm.weight"
    assert torch.equal(plain.weights[norm], stored[norm].float())
