"""Checkpoints in four bits go both ways between Quatrain and transformers with bitsandbytes, byte for byte."""

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from quatrain.models import load_model, save_quantized
from quatrain.quantization import QuantizedLinear
from tests.models.families import config_of

IDS = torch.tensor([[1, 5, 9, 100, 44, 7, 2, 30]])
FAMILIES = ["llama", "gpt2", "mixtral"]


@pytest.fixture(params=FAMILIES)
def plain(request, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(request.param)).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def with_bitsandbytes(source: Path, **settings):
    options = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32} | settings
    return on_the_cpu(source, quantization_config=BitsAndBytesConfig(load_in_4bit=True, **options))


def on_the_cpu(source: Path, **settings):
    """transformers' own loading; it would choose a GPU if there is one."""
    settings |= {"dtype": torch.float32, "device_map": {"": "cpu"}}
    return AutoModelForCausalLM.from_pretrained(source, **settings).eval()


def logits(model) -> torch.Tensor:
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512 it repacks the weights and rounds activations to bfloat16.
            module.support_avx512bf16_for_cpu = False
    with torch.no_grad():
        return model(IDS).logits


def same_files(a: Path, b: Path) -> None:
    left, right = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_theirs_loads_without_requantizing(plain: Path, tmp_path: Path, quant_type: str, double_quant: bool):
    theirs = with_bitsandbytes(plain, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=double_quant)
    theirs.save_pretrained(tmp_path / "theirs")
    stored = load_file(tmp_path / "theirs" / "model.safetensors")
    # The request for another type is not a request to quantize twice.
    ours, _ = load_model(tmp_path / "theirs", quantization="int4", compute_dtype="float32", device="cpu")
    linears = {name: m for name, m in ours.named_modules() if isinstance(m, QuantizedLinear)}
    assert linears
    for name, module in linears.items():
        assert torch.equal(module.quantized.codes, stored[f"{name}.weight"].flatten())
        assert torch.equal(module.quantized.scales, stored[f"{name}.weight.absmax"].flatten())
        assert module.quantized.quant_type == quant_type
        assert module.quantized.is_double_quantized == double_quant
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-4)


def test_ours_loads_in_transformers_and_again_in_ours(plain: Path, tmp_path: Path):
    ours, _ = load_model(plain, compute_dtype="float32", device="cpu")
    save_quantized(ours, None, tmp_path / "ours")
    theirs = on_the_cpu(tmp_path / "ours")
    assert theirs.is_loaded_in_4bit
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-4)
    again, _ = load_model(tmp_path / "ours", compute_dtype="float32", device="cpu")
    assert torch.equal(logits(ours), logits(again))
    save_quantized(again, None, tmp_path / "again")
    same_files(tmp_path / "ours", tmp_path / "again")


def test_save_pretrained_writes_a_loadable_checkpoint(plain: Path, tmp_path: Path):
    ours, _ = load_model(plain, compute_dtype="float32", device="cpu")
    ours.save_pretrained(tmp_path / "saved")
    again, _ = load_model(tmp_path / "saved", compute_dtype="float32", device="cpu")
    assert torch.equal(logits(ours), logits(again))


def test_our_4bit_weights_are_bitsandbytes_weights(plain: Path, tmp_path: Path):
    ours, _ = load_model(plain, compute_dtype="float32", device="cpu")
    with_bitsandbytes(plain, bnb_4bit_use_double_quant=True).save_pretrained(tmp_path / "theirs")
    save_quantized(ours, None, tmp_path / "ours")
    same_files(tmp_path / "ours", tmp_path / "theirs")
