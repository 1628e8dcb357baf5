"""One AdamW step on a list of float32 parameters, with float32 state."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..dispatch import use_triton
from . import reference
from .rows import check_parameters, check_state


@torch.no_grad()
def adamw_32bit(
    params: list[Tensor],
    grads: list[Tensor],
    moment1: Float[Tensor, "rows 256"],
    moment2: Float[Tensor, "rows 256"],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """Update ``params`` and both moments in place.

    ``params`` and ``grads`` are contiguous float32 tensors of equal shapes on one device. Parameter ``i`` owns the
    next ⌈numel/256⌉ rows of the moments; what its last row has left over stays zero. ``step`` counts from 1 and
    includes this one. The arithmetic is that of ``torch.optim.AdamW`` (Loshchilov & Hutter, arXiv 1711.05101,
    algorithm 2): decay first, ``eps`` added to the root of the bias-corrected second moment.

    Raises OptimizerError if parameters, gradients and state don't fit each other.
    """
    check_parameters(params, grads)
    check_state(params, {"moment1": (moment1, torch.float32), "moment2": (moment2, torch.float32)})
    settings = {"step": step, "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    if use_triton(params[0]):
        from . import triton

        triton.adamw_32bit(params, grads, moment1, moment2, **settings)
    else:
        reference.adamw_32bit(params, grads, moment1, moment2, **settings)
