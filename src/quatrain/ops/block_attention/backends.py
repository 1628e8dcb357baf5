"""Which kernel attends: the first in a list that covers the case.

On an H200 (`benchmarks/results/lab/attention.txt`), milliseconds forward/backward of 8,192 tokens in bfloat16, 32 query
heads over 8 of 128, 64 slots:

    | samples   | cuDNN       | our kernel  | FlashAttention-2 |
    |-----------|-------------|-------------|------------------|
    | 16 × 512  | 0.145/0.559 | 0.126/0.390 | 0.260/0.797      |
    | 4 × 2048  | 0.295/1.017 | 0.308/1.072 | 0.553/1.775      |
    | 1 × 8192  | 0.964/2.821 | 1.037/3.916 | 1.899/5.928      |

Our kernel comes after the libraries in spite of these times: for some tiles Triton has compiled it wrongly
(:func:`quatrain.ops.block_attention.tiles.move_of`), which a version of Triton that nobody has tested may do again. It
runs where no library does: soft-capping, float32, and gradients that have to repeat.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..dispatch import use_triton
from . import cudnn, flash2, reference


def choose(q_TAD: Tensor, softcap: float | None) -> tuple[ModuleType, dict[str, Any]]:
    """The backend for these queries, and the options that only some backends have."""
    options = {} if softcap is None else {"softcap": softcap}
    return BACKENDS[_names(q_TAD, softcap)[0]](), options


def available_backends(device: torch.device | str) -> list[str]:
    """Names of the backends that can attend in bfloat16 on ``device``, best first."""
    return _names(torch.empty(1, 1, 64, dtype=torch.bfloat16, device=device), None)


def _names(q_TAD: Tensor, softcap: float | None) -> list[str]:
    # PyTorch's switch is honoured: of the kernels, only ours gives the same bits in every run.
    libraries = () if torch.are_deterministic_algorithms_enabled() else (("cudnn", cudnn), ("flash2", flash2))
    names = [name for name, library in libraries if library.can_run(q_TAD, softcap)]
    return [*names, *(["triton"] if use_triton(q_TAD) else []), "reference"]


def _triton() -> ModuleType:
    from . import triton

    return triton


BACKENDS = {"cudnn": lambda: cudnn, "flash2": lambda: flash2, "triton": _triton, "reference": lambda: reference}
