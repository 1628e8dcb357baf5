"""Which device to compute on, and in which precision.

The precision of matrix products follows the hardware, because each kind has one type that is both fast and safe:

- CUDA from compute capability 8.0 (Ampere) multiplies bfloat16 natively: bfloat16, whose range equals float32's, so
  that no loss scaling is needed.
- Older CUDA only has float16 tensor cores: float16.
- A CPU with native bfloat16 dot products (AVX512-BF16 or AMX) runs them several times as fast as float32. Measured on
  two such cores, 512×1536 times 1536×1536: 856 against 189 GFLOP/s.
- Any other CPU emulates both 16-bit types and is slower with them than with float32: float32.

Whether a CPU has those dot products is read from the kernel's list of CPU flags and not from PyTorch, whose helpers for
this are private and differ between the releases that we support. Where there is no ``/proc/cpuinfo`` (macOS, Windows)
the answer is no, which costs speed and never correctness.
"""

from functools import cache
from pathlib import Path

import torch

from quatrain.errors import ConfigError, DeviceError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FAST_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def pick(device: str = "auto") -> torch.device:
    """The device to run on: ``"auto"`` (a GPU when there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    The result of a CUDA choice always carries its index, so that it equals the ``.device`` of tensors placed on it.

    Raises:
        DeviceError: the name isn't one of those, or no such GPU is there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:<index>; got {device!r}.") from error
    if chosen.type == "cpu":
        return torch.device("cpu")
    if chosen.type != "cuda":
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:<index>; {chosen.type!r} isn't supported.")
    if not torch.cuda.is_available():
        raise DeviceError(f"device {device!r} needs a CUDA GPU and PyTorch sees none; use device=cpu or device=auto.")
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    if index >= torch.cuda.device_count():
        raise DeviceError(
            f"device {device!r} isn't there: this machine's GPUs are 0 to {torch.cuda.device_count() - 1}."
        )
    return torch.device("cuda", index)


def compute_dtype(device: torch.device, choice: str = "auto") -> torch.dtype:
    """The type of activations and matrix products on ``device``; an explicit ``choice`` is always obeyed.

    Raises:
        ConfigError: ``choice`` is none of auto, bfloat16, float16, float32.
    """
    if choice in DTYPES:
        return DTYPES[choice]
    if choice != "auto":
        raise ConfigError(f"compute_dtype must be one of auto, {', '.join(DTYPES)}; got {choice!r}.")
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if has_fast_bfloat16() else torch.float32


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively."""
    return bool(FAST_BFLOAT16_FLAGS & cpu_flags())


@cache
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The first processor's feature flags as the Linux kernel names them; empty where the kernel doesn't list them."""
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()
