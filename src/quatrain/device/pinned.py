"""Host memory that a GPU's copy engine reads and writes by itself, while the processor does something else.

Such memory is *pinned*: its pages can't be moved or swapped out. PyTorch has an allocator for it that rounds every
request up to a power of two, which for blobs of a gigabyte wastes up to half of the host. Here the pages come from the
system, in huge ones where it has them (a fiftieth of the faults), and are registered with the driver afterwards. They
belong to this process alone: however it ends, the system takes them back.
"""

import mmap
import sys
import weakref
from contextlib import suppress
from math import prod
from typing import Any

import torch
from torch import Tensor

from quatrain.errors import DeviceError


def host_empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialized host tensor [shape] for copies from and to `device`: pinned if that is a GPU.

    Let it go only when no copy is under way; giving pinned memory back waits for the GPU.

    Raises:
        DeviceError: the host has no such memory left.
    """
    nbytes = prod(shape) * dtype.itemsize
    if device.type != "cuda" or nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    try:
        raw = _registered(nbytes, device) if sys.platform == "linux" else _from_torch(nbytes)
    except (OSError, RuntimeError) as error:
        raise DeviceError(
            f"Pinned host memory of {nbytes / 2**30:.2f} GiB is needed and can't be had ({error}). "
            "Free host memory, or let less be kept on the host."
        ) from error
    return raw[:nbytes].view(dtype).view(shape)


def _registered(nbytes: int, device: torch.device) -> Tensor:
    region = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        region.madvise(mmap.MADV_HUGEPAGE)
    raw = torch.frombuffer(region, dtype=torch.uint8)
    address = raw.data_ptr()
    with torch.cuda.device(device):
        torch.cuda.check_error(int(_runtime().cudaHostRegister(address, nbytes, 0)))
    # The region outlives every view of it, and goes with the last one. At exit the system is quicker.
    weakref.finalize(region, _unregister, address, device).atexit = False
    return raw


def _unregister(address: int, device: torch.device) -> None:
    torch.cuda.synchronize(device)
    _runtime().cudaHostUnregister(address)


def _runtime() -> Any:
    return torch.cuda.cudart()


def _from_torch(nbytes: int) -> Tensor:
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
