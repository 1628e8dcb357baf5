"""The doctor's facts: complete, honest about what is missing, and made without importing what they report on."""

import subprocess
import sys
from importlib import metadata

import pytest
import torch

from quatrain.device import describe, facts, name


def by_name() -> dict[str, facts.Fact]:
    return {fact.name: fact for fact in describe()}


def test_every_question_of_the_doctor_is_answered():
    found = by_name()
    expected = {"Python", "torch", "CPU", "CPU bfloat16", "Host memory", "Disk here", "Disk of the hub cache", "triton"}
    assert expected <= found.keys()
    assert {"transformers", "peft", "bitsandbytes"} <= found.keys()
    assert any(name.startswith("GPU") for name in found)
    assert torch.__version__.startswith(found["torch"].value)
    assert found["torch build"].value == (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only")
    assert all(fact.value for fact in found.values())
    assert all(fact.remedy for fact in found.values() if fact.ok is False), "what is wrong has a remedy"


def test_a_missing_or_old_package_is_reported_with_its_remedy(monkeypatch):
    def version(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return "0.0.1"

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["torch", "transformers>=5.17", 'peft>=0.21; extra == "test"']
    )
    found = by_name()
    assert found["peft"].ok is None and found["peft"].remedy == ""
    assert found["transformers"].ok is False
    assert "0.0.1, but transformers>=" in found["transformers"].value
    assert "pip install 'transformers>=" in found["transformers"].remedy


def test_a_source_checkout_that_is_not_installed_has_a_doctor_too(monkeypatch):
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert by_name()["torch"].ok is True


@pytest.mark.parametrize(("cuda", "remedy"), [(None, "CUDA build of PyTorch"), ("13.0", "now 535.104.05")])
def test_a_gpu_that_pytorch_cannot_use_is_a_fault_with_a_cause(monkeypatch, tmp_path, cuda, remedy):
    driver = tmp_path / "version"
    driver.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023\nGCC version: 12.2.0\n"
    )
    monkeypatch.setattr(facts, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    gpu = by_name()["GPU"]
    assert gpu.ok is False and remedy in gpu.remedy


def test_a_full_disk_is_a_fault(monkeypatch):
    monkeypatch.setattr(facts, "ENOUGH_DISK", 2**70)
    monkeypatch.setenv("HF_HOME", "/nowhere/at/all")
    assert by_name()["Disk of the hub cache"].remedy.endswith("HF_HOME")


def test_facts_are_gathered_without_importing_heavy_libraries():
    code = (
        "import sys; from quatrain.device import describe; describe();"
        "print(sorted({'transformers', 'triton', 'peft', 'bitsandbytes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
def test_each_gpu_has_a_line_with_its_memory_and_precisions():
    gpu = by_name()["GPU 0"]
    assert gpu.ok and "GiB free of" in gpu.value and "driver unknown" not in gpu.value


def test_a_device_is_called_by_the_name_that_a_person_knows():
    assert name(torch.device("cpu")) in by_name()["CPU"].value
