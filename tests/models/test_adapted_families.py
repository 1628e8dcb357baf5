"""Every decoder family trains with an adapter: exact at the start, and each matrix of it gets a gradient."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from quatrain.adapters import LoraConfig, adapter_layers, attach_lora
from quatrain.models import load_model
from tests.models.families import FAMILIES, config_of

IDS = torch.tensor([[1, 5, 9, 100, 44, 7, 2, 30], [3, 3, 8, 120, 150, 6, 11, 12]])
CASES = [(family, "float32") for family in FAMILIES] + [("llama-bias", "bfloat16"), ("gpt2", "bfloat16")]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory):
    folders: dict[str, Path] = {}

    def saved(family: str) -> Path:
        if family not in folders:
            torch.manual_seed(0)
            folders[family] = tmp_path_factory.mktemp(family)
            AutoModelForCausalLM.from_config(config_of(family)).save_pretrained(folders[family])
        return folders[family]

    return saved


@pytest.mark.parametrize("quantization", ["nf4", None])
@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_one_step(folder_of, family: str, dtype: str, quantization):
    model, _ = load_model(folder_of(family), quantization=quantization, compute_dtype=dtype, device="cpu")
    with torch.no_grad():
        frozen = model(input_ids=IDS).logits
    attach_lora(model, LoraConfig(r=4))
    assert adapter_layers(model)
    result = model(input_ids=IDS, labels=IDS)
    assert torch.equal(result.logits, frozen)
    result.loss.backward()
    for name, layer in adapter_layers(model).items():
        gradient = layer.lora_B.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name
        with torch.no_grad():
            layer.lora_B.sub_(0.1 * gradient)
    with torch.no_grad():
        assert model(input_ids=IDS, labels=IDS).loss < result.loss
