"""A small data set and a function that trains the small Llama on it."""

import json
from pathlib import Path

import pytest
import torch

from quatrain.adapters import LoraConfig, adapter_parameters
from quatrain.runlog import RunFolder
from quatrain.training import RunConfig
from quatrain.training.build import Setup


def change(setup: Setup) -> None:
    """What training does to an adapter, as far as its files can tell."""
    with torch.no_grad():
        for parameter in adapter_parameters(setup.model).values():
            parameter.copy_(torch.randn(parameter.shape))


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> Path:
    """24 sums as prompt and completion, of various lengths."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    sums = [(a, b) for a in range(2, 8) for b in range(3, 7)]
    lines = [
        {"prompt": "how many " * (a % 3) + f"{a} + {b}?", "completion": f"{a + b} apples" * (b % 3 + 1)}
        for a, b in sums
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def config_for(tiny_llama_dir, rows, tmp_path):
    """Makes a RunConfig for the small Llama; keyword arguments replace its settings."""

    def make(**changes) -> RunConfig:
        settings = {
            "model": str(tiny_llama_dir),
            "data": str(rows),
            "eval_data": str(rows),
            "output_dir": str(tmp_path / "run"),
            "compute_dtype": "float32",
            "device": "cpu",
            "lora": LoraConfig(r=4, lora_alpha=8),
            "max_length": 64,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "num_train_epochs": 3.0,
        }
        return RunConfig(**(settings | changes))

    return make
