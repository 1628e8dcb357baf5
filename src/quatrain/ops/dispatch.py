"""Which twin of an operation runs: the Triton kernel on a CUDA device, the PyTorch reference everywhere else."""

from functools import cache
from importlib.util import find_spec

from torch import Tensor


@cache
def _triton_is_installed() -> bool:
    return find_spec("triton") is not None


def use_triton(tensor: Tensor) -> bool:
    """True if ``tensor`` lies on a CUDA device and triton is installed; without triton the reference runs there too."""
    return tensor.is_cuda and _triton_is_installed()
