"""The AdamW update itself, in plain PyTorch.

The moments of all parameters lie one after the other in rows of 256, so each line that touches only moments is one
operation, and only the lines that touch gradients or parameters go through them one by one (``torch._foreach``, which
is what ``torch.optim`` uses: on the CPU a loop in C++). Nothing is gathered or scattered.
"""

# torch.optim is built on these functions; only their names look private.
# pyright: reportPrivateImportUsage=false

import math

import torch
from torch import Tensor

from .rows import owned


def adamw_32bit(
    params: list[Tensor],
    grads: list[Tensor],
    moment1: Tensor,
    moment2: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """See :func:`quatrain.ops.adamw_32bit.adamw_32bit`; no argument is checked here."""
    beta1, beta2 = betas
    correction1 = 1 - beta1**step
    correction2 = math.sqrt(1 - beta2**step)

    moment1.mul_(beta1)
    torch._foreach_add_(owned(moment1, params), grads, alpha=1 - beta1)
    moment2.mul_(beta2)
    torch._foreach_addcmul_(owned(moment2, params), grads, grads, value=1 - beta2)

    denominator = moment2.sqrt().div_(correction2).add_(eps)
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    torch._foreach_addcdiv_(params, owned(moment1, params), owned(denominator, params), value=-lr / correction1)
