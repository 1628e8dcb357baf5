"""Which kernel attends: the first in a list, fastest first, that covers the case."""

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
    """Names of the backends that can attend in bfloat16 on ``device``, fastest first."""
    return _names(torch.empty(1, 1, 64, dtype=torch.bfloat16, device=device), None)


def _names(q_TAD: Tensor, softcap: float | None) -> list[str]:
    """The backends that cover a case, best first.

    PyTorch's switch ``use_deterministic_algorithms`` is honoured: our own kernel gives the same bits in every run.
    """
    repeatable = torch.are_deterministic_algorithms_enabled()
    names = ["flash2"] if flash2.can_run(q_TAD, softcap) and not repeatable else []
    if cudnn.can_run(q_TAD, softcap) and not repeatable:
        names.append("cudnn")
    if use_triton(q_TAD):
        names.append("triton")
    return [*names, "reference"]


def _triton() -> ModuleType:
    from . import triton

    return triton


BACKENDS = {"cudnn": lambda: cudnn, "flash2": lambda: flash2, "triton": _triton, "reference": lambda: reference}
