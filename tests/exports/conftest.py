"""A finished run on the tiny Llama, with an adapter that changes something."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora, provenance_of, save_adapter
from quatrain.models import load_model
from quatrain.runlog import RunFolder
from quatrain.training import RunConfig, write_config


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"prompt": f"{a} + 1?", "completion": f"{a} apples and the lazy dog {a + 1}"} for a in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_run(
    folder: Path, base: Path, rows: Path, tokenizer, *, lora: LoraConfig | None = None, std: float = 0.05, **settings
) -> Path:
    """A run folder as training leaves it, with random weights in the adapter."""
    given: dict[str, Any] = {"device": "cpu", "compute_dtype": "float32"} | settings
    config = RunConfig(model=str(base), data=str(rows), output_dir=str(folder), **given)
    names = ("quantization", "double_quant", "block_size", "device", "compute_dtype", "quantize_head")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    model, _ = load_model(base, **options)
    attach_lora(model, lora or LoraConfig(r=4))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(std=std, generator=generator)
    run = RunFolder(folder)
    run.create()
    write_config(config, run.config)
    save_adapter(model, run.adapter, provenance=provenance_of(model, tokenizer))
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory, tiny_llama_dir, rows, tokenizer) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run", tiny_llama_dir, rows, tokenizer)
