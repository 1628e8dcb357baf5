"""Checkpoints of random weights: complete, in shape, readable by who has to read them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import checkpoints
from benchmarks.shapes import SHAPES
from quatrain import load_model


def test_what_is_written_has_the_shape_and_a_fresh_networks_sizes(models: Path):
    shape, folder = SHAPES["tiny"], models / "tiny"
    tensors = {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}
    matrices = {name: t.float() for name, t in tensors.items() if t.dim() == 2}
    assert sum(t.numel() for t in matrices.values()) * 2 == shape.bytes_16bit
    for name, matrix in matrices.items():
        assert tensors[name].dtype == torch.bfloat16
        assert matrix.std().item() == pytest.approx(matrix.shape[1] ** -0.5, rel=0.1)
    index = json.loads((folder / checkpoints.INDEX).read_text())
    assert index["weight_map"].keys() == tensors.keys()
    norms = [t for name, t in tensors.items() if t.dim() == 1]
    assert len(norms) == 2 * shape.blocks + 1 and all(abs(t.float().mean() - 1) < 0.1 for t in norms)


@pytest.mark.parametrize("name", ["tiny", "gate_1b"])
def test_quatrain_and_transformers_load_it(name: str, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    checkpoints.ensure(name, tmp_path)
    model, tokenizer = load_model(tmp_path / name, device="cpu")
    shape = SHAPES[name]
    assert tokenizer.decode(tokenizer("two words").input_ids) == "two words"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / name)
    assert theirs.num_parameters() * 2 == shape.bytes_16bit + 2 * shape.hidden * (2 * shape.blocks + 1)
    assert model.config.head_dim == shape.head_size and model.config.rope_parameters["rope_theta"] == 500000


def test_a_half_made_folder_is_made_again(tmp_path: Path):
    left = tmp_path / "tiny.part"
    left.mkdir()
    (left / "model-00099.safetensors").write_bytes(b"cut off")
    checkpoints.ensure("tiny", tmp_path)
    assert not left.exists() and not (tmp_path / "tiny" / "model-00099.safetensors").exists()
    written = (tmp_path / "tiny" / "config.json").stat().st_mtime_ns
    checkpoints.ensure("tiny", tmp_path)
    assert (tmp_path / "tiny" / "config.json").stat().st_mtime_ns == written
