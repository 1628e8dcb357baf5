"""The checkpoint that the tests of the benchmarks work on, made once."""

from pathlib import Path

import pytest
import torch

from benchmarks import checkpoints
from benchmarks.case import Setting


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint `tiny`."""
    folder = tmp_path_factory.mktemp("models")
    checkpoints.ensure("tiny", folder)
    return folder


@pytest.fixture
def setting(models: Path) -> Setting:
    return Setting(device=torch.device("cpu"), models=models, started=0.0, quick=True)
