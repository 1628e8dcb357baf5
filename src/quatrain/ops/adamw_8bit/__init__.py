"""One AdamW step on a list of float32 parameters, with state in eight bits."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..adamw_32bit.rows import check_parameters, check_state
from ..dispatch import use_triton
from . import reference


@torch.no_grad()
def adamw_8bit(
    params: list[Tensor],
    grads: list[Tensor],
    codes1: UInt8[Tensor, "rows 256"],
    scales1: Float[Tensor, " rows"],
    codes2: UInt8[Tensor, "rows 256"],
    scales2: Float[Tensor, " rows"],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """Update ``params`` and the state in place; zeros everywhere are the state of a fresh start.

    ``params`` and ``grads`` are contiguous float32 tensors of equal shapes on one device. Parameter ``i`` owns the
    next ⌈numel/256⌉ rows of the state, and each row is one quantization block: codes of the dynamic map, signed for the
    first moment and unsigned for the second, and their largest magnitude in float32. ``step`` counts from 1 and
    includes this one. The arithmetic is that of :func:`quatrain.ops.adamw_32bit.adamw_32bit` on the expanded state; the
    parameters see the moments before they are rounded again.

    Raises OptimizerError if parameters, gradients and state don't fit each other.

    Source: Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861).
    """
    check_parameters(params, grads)
    codes = {"codes1": (codes1, torch.uint8), "codes2": (codes2, torch.uint8)}
    check_state(params, codes | {"scales1": (scales1, torch.float32), "scales2": (scales2, torch.float32)})
    settings = {"step": step, "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    if use_triton(params[0]):
        from . import triton

        triton.adamw_8bit(params, grads, codes1, scales1, codes2, scales2, **settings)
    else:
        reference.adamw_8bit(params, grads, codes1, scales1, codes2, scales2, **settings)
