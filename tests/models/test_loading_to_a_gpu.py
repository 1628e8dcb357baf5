"""Loading through `read_ahead`: what arrives equals what the files hold, for every kind of checkpoint, and is bounded.

On a GPU that is how models load. The first tests play it on the CPU, where views of the mapped files, which need no
reading ahead, are the oracle.
"""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quatrain.errors import ModelError, QuantizationError
from quatrain.models import load_model, save_quantized
from quatrain.models.read_ahead import Budget, read_ahead
from quatrain.models.safetensors_folder import SafetensorsFolder
from quatrain.quantization import QuantizedModule, quantize_4bit
from tests.models.families import config_of
from tests.models.test_read_ahead import SlowLane

FAMILIES = ["llama", "qwen2", "gemma2", "gpt2", "mixtral"]


def checkpoint(folder: Path, family: str, **changes) -> Path:
    torch.manual_seed(0)
    config = config_of(family)
    config.update(changes)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")
    return folder


def assert_equal(ours: torch.nn.Module, expected: torch.nn.Module) -> None:
    a, b = ours.state_dict(), expected.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name].cpu(), b[name].cpu()), name


@pytest.fixture
def reading_ahead(monkeypatch):
    """CPU loads go through `read_ahead`, in pieces of 1000 bytes."""

    def arriving(self: SafetensorsFolder, groups, device):
        budget = Budget(threads=3, piece=1000, pieces=4, ahead=50_000)
        return read_ahead(groups, self.extents, SlowLane(), budget)

    monkeypatch.setattr(SafetensorsFolder, "arriving", arriving)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", ["nf4", None])
def test_a_model_read_ahead_equals_one_from_mapped_files(tmp_path: Path, request, family: str, quantization):
    checkpoint(tmp_path, family)
    options = {"quantization": quantization, "compute_dtype": "float32", "device": "cpu"}
    expected, _ = load_model(tmp_path, **options)
    request.getfixturevalue("reading_ahead")
    ours, _ = load_model(tmp_path, **options)
    assert_equal(ours, expected)


def test_a_4bit_checkpoint_read_ahead(tmp_path: Path, request):
    base, _ = load_model(checkpoint(tmp_path / "base", "llama"), compute_dtype="bfloat16", device="cpu")
    save_quantized(base, None, tmp_path / "saved")
    request.getfixturevalue("reading_ahead")
    ours, _ = load_model(tmp_path / "saved", compute_dtype="bfloat16", device="cpu")
    assert_equal(ours, base)


@pytest.mark.parametrize("double_quant", [True, False])
def test_damaged_weights_are_named_at_the_end(tmp_path: Path, double_quant: bool):
    checkpoint(tmp_path, "llama")
    for file in tmp_path.glob("*.safetensors"):
        tensors = load_file(file)
        for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
            if name in tensors:
                tensors[name][3, 5] = float("nan" if "up_proj" in name else "inf")
        save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(QuantizationError) as error:
        load_model(tmp_path, device="cpu", double_quant=double_quant)
    message = str(error.value)
    assert "model.layers.0.mlp.up_proj.weight, model.layers.1.self_attn.q_proj.weight must be finite" in message


def test_scales_of_a_4bit_checkpoint_that_arent_finite_are_named(tmp_path: Path):
    base, _ = load_model(checkpoint(tmp_path / "base", "llama"), compute_dtype="bfloat16", device="cpu")
    save_quantized(base, None, tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj.weight.nested_absmax"][0] = -float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(QuantizationError, match=r"model\.layers\.1\.mlp\.down_proj\.weight must be finite"):
        load_model(tmp_path / "saved", device="cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", ["nf4", None])
def test_a_model_on_a_gpu_equals_one_on_the_cpu(tmp_path: Path, family: str, quantization):
    """Without double quantization, whose mean a GPU sums in another order."""
    checkpoint(tmp_path, family)
    options = {"quantization": quantization, "compute_dtype": "bfloat16", "double_quant": False}
    assert_equal(load_model(tmp_path, device="cuda", **options)[0], load_model(tmp_path, device="cpu", **options)[0])


@pytest.mark.gpu
def test_large_weights_on_a_gpu_equal_their_own_quantization(tmp_path: Path):
    """Matrices of many pieces, several on their way at once, each into memory that the one before has just left."""
    changes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 6, "head_dim": 512}
    checkpoint(tmp_path, "llama", **changes)
    stored = {name: tensor for file in tmp_path.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for _ in range(3):
        model, _ = load_model(tmp_path, compute_dtype="bfloat16", device="cuda")
        for name, module in model.named_modules():
            if isinstance(module, QuantizedModule):
                expected = quantize_4bit(stored[f"{name}.weight"].cuda()).tensors()
                found = module.quantized.tensors()
                assert all(torch.equal(found[part], expected[part]) for part in expected), name
        assert torch.equal(model.model.embed_tokens.weight.cpu(), stored["model.embed_tokens.weight"])


@pytest.mark.gpu
def test_4bit_checkpoints_keep_their_bytes_on_a_gpu(tmp_path: Path):
    base, _ = load_model(checkpoint(tmp_path / "base", "llama"), compute_dtype="bfloat16", device="cuda")
    save_quantized(base, None, tmp_path / "saved")
    assert_equal(load_model(tmp_path / "saved", compute_dtype="bfloat16", device="cuda")[0], base)


@pytest.mark.gpu
def test_device_memory_stays_within_what_is_ahead(tmp_path: Path):
    changes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 512}
    checkpoint(tmp_path, "llama", **changes)
    load_model(tmp_path, compute_dtype="bfloat16", device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model, _ = load_model(tmp_path, compute_dtype="bfloat16", device="cuda")
    held = torch.cuda.memory_allocated() - before
    assert sum(parameter.nbytes for parameter in model.parameters()) < held
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < held + Budget().ahead + (64 << 20) < size


@pytest.mark.gpu
def test_a_failure_on_the_way_to_a_gpu_names_the_tensor_and_ends_the_threads(tmp_path: Path, monkeypatch):
    checkpoint(tmp_path / "whole", "llama")
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    folder = SafetensorsFolder(tmp_path / "torn")
    path = folder.extents["model.layers.1.mlp.up_proj.weight"].path
    # The header is read and found right before the file is cut.
    monkeypatch.setattr("quatrain.models.opening._open", lambda where: folder)
    path.write_bytes(path.read_bytes()[: folder.extents["model.layers.1.mlp.up_proj.weight"].offset + 100])
    with pytest.raises(ModelError, match=r"must be readable from .*ends at byte"):
        load_model(tmp_path / "torn", device="cuda")
    assert not any(thread.name.startswith("quatrain-read") for thread in threading.enumerate())
