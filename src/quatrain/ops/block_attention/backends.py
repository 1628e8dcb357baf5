"""Which kernel attends: the first in a list, fastest first, that covers the case.

The lists are what an H200 says (`benchmarks/`, milliseconds forward/backward of 8,192 tokens, 32 heads over 8 of 128):

    | samples   | cuDNN       | our kernel  | FlashAttention-2 |
    |-----------|-------------|-------------|------------------|
    | 16 × 512  | 0.145/0.559 | 0.126/0.390 | 0.260/0.797      |
    | 4 × 2048  | 0.295/1.017 | 0.308/1.025 | 0.553/1.775      |
    | 1 × 8192  | 0.964/2.821 | 1.037/3.616 | 1.899/5.928      |
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..dispatch import use_triton
from . import cudnn, flash2, reference

_SHORT = 0
"""Tokens. Up to here our kernel beats cuDNN, whose plans deal out work in larger pieces."""


def choose(q_TAD: Tensor, max_length: int, softcap: float | None) -> tuple[ModuleType, dict[str, Any]]:
    """The backend for these queries, and the options that only some backends have."""
    options = {} if softcap is None else {"softcap": softcap}
    return BACKENDS[_names(q_TAD, max_length, softcap)[0]](), options


def available_backends(device: torch.device | str) -> list[str]:
    """Names of the backends that can attend in bfloat16 on ``device``; for long samples, fastest first."""
    return _names(torch.empty(1, 1, 64, dtype=torch.bfloat16, device=device), 1 << 16, None)


def _names(q_TAD: Tensor, max_length: int, softcap: float | None) -> list[str]:
    can_run = {
        "cudnn": cudnn.can_run(q_TAD, softcap),
        "flash2": flash2.can_run(q_TAD, softcap),
        "triton": use_triton(q_TAD),
        "reference": True,
    }
    return [name for name in _preferred(q_TAD, max_length) if can_run[name]]


def _preferred(q_TAD: Tensor, max_length: int) -> list[str]:
    # PyTorch's switch is honoured: of the kernels, only ours gives the same bits in every run.
    if torch.are_deterministic_algorithms_enabled():
        return ["triton", "reference"]
    # Our kernel is tuned for Hopper and for heads up to 128.
    tuned = q_TAD.is_cuda and torch.cuda.get_device_capability(q_TAD.device)[0] == 9 and q_TAD.shape[-1] <= 128
    if not tuned:
        return ["cudnn", "flash2", "triton", "reference"]
    if max_length <= _SHORT:
        return ["triton", "cudnn", "flash2", "reference"]
    return ["cudnn", "triton", "flash2", "reference"]


def _triton() -> ModuleType:
    from . import triton

    return triton


BACKENDS = {"cudnn": lambda: cudnn, "flash2": lambda: flash2, "triton": _triton, "reference": lambda: reference}
