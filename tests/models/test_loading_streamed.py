"""Loading straight into blobs: the same model, with one block at a time on the device, and damage is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quatrain.errors import ModelError, QuantizationError
from quatrain.models import load_model, save_quantized
from quatrain.models.streaming import streamed_weights
from quatrain.offload import Streaming
from quatrain.quantization import QuantizedModule
from tests.models.test_loading_to_a_gpu import assert_equal, checkpoint

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_a_streamed_model_is_the_resident_one(tmp_path: Path, family, device):
    checkpoint(tmp_path, family)
    options = {"compute_dtype": "bfloat16", "device": device}
    resident, _ = load_model(tmp_path, **options)
    streamed, _ = load_model(tmp_path, streaming=Streaming(host=(0,), disk=(1,), folder=tmp_path), **options)
    assert_equal(streamed, resident)
    weights = streamed_weights(streamed)
    lodged = [module for module in streamed.modules() if isinstance(module, QuantizedModule) and module.is_lodged]
    assert weights is not None and weights.nbytes >= sum(module.quantized.nbytes for module in lodged) > 0
    assert len(lodged) == sum(isinstance(module, QuantizedModule) for module in streamed.model.layers.modules())


@pytest.mark.parametrize("device", DEVICES)
def test_a_4bit_checkpoint_is_streamed_as_it_is(tmp_path: Path, device):
    base, _ = load_model(checkpoint(tmp_path / "base", "llama"), compute_dtype="bfloat16", device=device)
    save_quantized(base, None, tmp_path / "saved")
    options = {"compute_dtype": "bfloat16", "device": device}
    streamed, _ = load_model(tmp_path / "saved", streaming=Streaming(host=(0, 1)), **options)
    assert_equal(streamed, base)
    save_quantized(streamed, None, tmp_path / "again")
    assert_equal(load_model(tmp_path / "again", **options)[0], base)


def test_damaged_weights_of_streamed_blocks_are_named(tmp_path: Path):
    checkpoint(tmp_path, "llama")
    for file in tmp_path.glob("*.safetensors"):
        tensors = load_file(file)
        if (name := "model.layers.1.mlp.up_proj.weight") in tensors:
            tensors[name][3, 5] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(QuantizationError, match=r"model\.layers\.1\.mlp\.up_proj\.weight must be finite"):
        load_model(tmp_path, device="cpu", streaming=Streaming(host=(1,)))


def test_sixteen_bits_arent_streamed(tmp_path: Path):
    with pytest.raises(ModelError, match="Only 4-bit weights are streamed"):
        load_model(checkpoint(tmp_path, "llama"), device="cpu", quantization=None, streaming=Streaming(host=(1,)))


@pytest.mark.gpu
def test_the_device_never_holds_all_4bit_weights(tmp_path: Path):
    changes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 512}
    checkpoint(tmp_path, "llama", **changes)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model, _ = load_model(tmp_path, compute_dtype="bfloat16", streaming=Streaming(host=tuple(range(16))))
    weights = streamed_weights(model)
    assert weights is not None
    left = torch.cuda.memory_allocated() - before
    assert left < sum(p.nbytes for p in model.parameters()) + (8 << 20)
    # What is read ahead, and a block that is incomplete.
    assert torch.cuda.max_memory_allocated() - before < left + (768 << 20) + weights.nbytes // 8
