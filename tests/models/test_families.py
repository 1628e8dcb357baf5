"""Every decoder family gives the logits that transformers gives, unquantized exactly, in four bits on equal weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from quatrain.models import body, head, load_model
from quatrain.quantization import QuantizedLinear, quantize_4bit
from quatrain.quantization.linears import is_linear
from tests.models.families import FAMILIES, config_of

IDS = torch.tensor([[1, 5, 9, 100, 44, 7, 2, 30], [3, 3, 8, 120, 150, 6, 11, 12]])


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(request.param))
    # Norm weights and biases start as ones and zeros, which would hide a mix-up.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="60KB")
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_unquantized_logits_equal_transformers(checkpoint: Path):
    ours, _ = load_model(checkpoint, quantization=None, compute_dtype="float32", device="cpu")
    assert torch.equal(logits(ours), logits(reference(checkpoint)))


def test_4bit_logits_equal_those_of_dequantized_weights(checkpoint: Path):
    ours, _ = load_model(checkpoint, compute_dtype="float32", device="cpu")
    theirs = reference(checkpoint)
    output = theirs.get_output_embeddings()
    module: Any
    for module in theirs.modules():
        if is_linear(module) and module is not output:
            weight = module.weight.data.T if isinstance(module, Conv1D) else module.weight.data
            back = quantize_4bit(weight.contiguous()).dequantize()
            module.weight.data = back.T if isinstance(module, Conv1D) else back
    torch.testing.assert_close(logits(ours), logits(theirs), atol=2e-6, rtol=2e-5)


def test_every_linear_of_the_body_is_quantized_and_frozen(checkpoint: Path):
    model, _ = load_model(checkpoint, compute_dtype="float32", device="cpu")
    left = [name for name, module in model.named_modules() if is_linear(module)]
    assert left == [name for name, module in model.named_modules() if module is head(model)]
    assert sum(isinstance(module, QuantizedLinear) for module in model.modules()) >= 2 * 2
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_body_and_head_give_the_logits_together(checkpoint: Path):
    model: Any = load_model(checkpoint, compute_dtype="float32", device="cpu")[0]
    assert body(model) is not model
    assert body(model) in {model.base_model, getattr(model, "model", None)}
    with torch.no_grad():
        # Some families scale or cap what the head gives (Cohere, Granite, Gemma 2); none of them changes the order.
        order = head(model)(body(model)(IDS).last_hidden_state).argsort(-1)
    assert torch.equal(order, logits(model).argsort(-1))
