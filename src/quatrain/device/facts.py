"""What this machine can do and what is missing, as a list that ``quatrain doctor`` prints.

A :class:`Fact` carries its own verdict and remedy, so that the printer has nothing to decide. Libraries are looked up
in the installed packages' metadata and never imported: the doctor must answer in a second, and must answer on a machine
where importing one of them is exactly what fails. What counts as too old is what Quatrain's own metadata requires.
"""

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from quatrain.device.choose import has_fast_bfloat16
from quatrain.device.memory import free_memory

GIB = 2**30
ENOUGH_DISK = 10 * GIB
FIRST_FP8_CAPABILITY = (8, 9)
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Fact:
    """One line of the doctor's report."""

    name: str
    value: str
    ok: bool | None = None
    """True: as it should be. False: something is missing or too old. None: neither good nor bad."""
    remedy: str = ""
    """What to do about it; empty when there is nothing to do."""


def describe() -> list[Fact]:
    """Everything that decides what can be run here, most basic first. Takes well under a second."""
    return [
        Fact("Python", platform.python_version(), ok=True),
        _package("torch", "it does all computing"),
        Fact("torch build", f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"),
        *_cpu(),
        *_disks(),
        *_gpus(),
        _package("triton", "the GPU kernels are written in it", needed=torch.cuda.is_available()),
        _package("nvidia-cudnn-frontend", "the fastest attention on GPUs runs through it", needed=False),
        _package("transformers", "it reads models and tokenizers"),
        _package("peft", "only tests and comparisons use it", needed=False),
        _package("bitsandbytes", "only tests and comparisons use it", needed=False),
    ]


def name(device: torch.device) -> str:
    """What a person calls this device: "NVIDIA H200", or the processor's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu() -> list[Fact]:
    cores = f"{psutil.cpu_count(logical=False) or '?'} cores, {torch.get_num_threads()} threads used"
    total, free = psutil.virtual_memory().total, free_memory(torch.device("cpu"))
    fast = has_fast_bfloat16()
    return [
        Fact("CPU", f"{_cpu_name()}, {cores}"),
        Fact(
            "CPU bfloat16", "native dot products" if fast else "none: matrix products run in float32", ok=fast or None
        ),
        Fact("Host memory", f"{free / GIB:.1f} GiB free of {total / GIB:.1f} GiB"),
    ]


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def _disks() -> list[Fact]:
    """Free space where runs are written and where the hub's files are kept."""
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    while not cache.exists():
        cache = cache.parent
    return [
        _disk("Disk here", Path.cwd(), "write runs to a larger disk with output_dir"),
        _disk("Disk of the hub cache", cache, "move the cache to a larger disk with the variable HF_HOME"),
    ]


def _disk(name: str, folder: Path, remedy: str) -> Fact:
    free = shutil.disk_usage(folder).free
    enough = free >= ENOUGH_DISK
    return Fact(name, f"{free / GIB:.1f} GiB free", ok=enough, remedy="" if enough else remedy)


def _gpus() -> list[Fact]:
    if torch.cuda.is_available():
        return [_gpu(index) for index in range(torch.cuda.device_count())]
    if not NVIDIA_DRIVER.exists():
        return [Fact("GPU", "none: training runs on the CPU, which suits models up to about 1B parameters")]
    if torch.version.cuda is None:
        remedy = "install a CUDA build of PyTorch; this one computes on the CPU only"
    else:
        remedy = f"update the driver (now {_driver()}) to one that supports CUDA {torch.version.cuda}"
    return [Fact("GPU", "an NVIDIA driver is there, but PyTorch can't use it", ok=False, remedy=remedy)]


def _gpu(index: int) -> Fact:
    device = torch.device("cuda", index)
    properties = torch.cuda.get_device_properties(device)
    capability = (properties.major, properties.minor)
    with torch.cuda.device(device):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    parts = [
        properties.name,
        f"capability {properties.major}.{properties.minor}",
        f"{free_memory(device) / GIB:.1f} GiB free of {properties.total_memory / GIB:.1f} GiB",
        f"driver {_driver()}",
        "bfloat16" if bf16 else "no bfloat16: matrix products run in float16",
        "FP8" if capability >= FIRST_FP8_CAPABILITY else "no FP8",
    ]
    return Fact(f"GPU {index}", ", ".join(parts), ok=True)


def _driver() -> str:
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", NVIDIA_DRIVER.read_text()) if NVIDIA_DRIVER.exists() else None
    return found[0] if found else "unknown"


def _package(name: str, purpose: str, *, needed: bool = True) -> Fact:
    requirement = _requirements().get(name, Requirement(name))
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        remedy = f"pip install '{name}{requirement.specifier}'" if needed else ""
        return Fact(name, f"not installed ({purpose})", ok=False if needed else None, remedy=remedy)
    if not requirement.specifier.contains(version, prereleases=True):
        wanted = f"{name}{requirement.specifier}"
        return Fact(name, f"{version}, but {wanted} is required", ok=False, remedy=f"pip install '{wanted}'")
    return Fact(name, version, ok=True)


def _requirements() -> dict[str, Requirement]:
    """What Quatrain's metadata requires, by package name, optional groups included; nothing when it isn't installed."""
    try:
        listed = metadata.requires("quatrain") or []
    except metadata.PackageNotFoundError:
        listed = []
    return {requirement.name: requirement for requirement in map(Requirement, listed)}
