"""The good inputs that cases spoil copies of."""

import json
from pathlib import Path

import pytest

from quatrain.adapters import LoraConfig
from quatrain.training import RunConfig, train
from tests.faults.place import GOOD_ROWS, Originals, Place


@pytest.fixture(scope="session")
def originals(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Originals:
    folder = tmp_path_factory.mktemp("originals")
    rows = folder / "rows.jsonl"
    rows.write_text(GOOD_ROWS)
    config = RunConfig(
        model=str(tiny_llama_dir),
        data=str(rows),
        output_dir=folder / "run",
        max_steps=2,
        max_length=64,
        save_steps=1,
        lora=LoraConfig(r=2),
        device="cpu",
        compute_dtype="float32",
    )
    run = train(None, None, config, progress=False).folder
    assert json.loads((run.adapter / "adapter_config.json").read_text())["r"] == 2
    return Originals(model=tiny_llama_dir, adapter=run.adapter, run=run.path)


@pytest.fixture
def place(tmp_path: Path, originals: Originals, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, originals, monkeypatch)
