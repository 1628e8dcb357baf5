"""PyTorch's switch for kernels that repeat, for the time of a run.

Our own kernels add up in a fixed order; of attention's backends only ours does, and is chosen while the switch is on
(`quatrain.ops.block_attention.backends`). cuBLAS needs workspaces of a fixed size besides, which it is told by an
environment variable that it reads when it is first used on a device:
https://docs.nvidia.com/cuda/cublas/#results-reproducibility.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """A context in which PyTorch chooses deterministic kernels, and refuses operations that have none."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault(_CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
