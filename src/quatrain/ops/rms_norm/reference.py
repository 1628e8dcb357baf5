"""Root-mean-square normalization and its gradient in plain PyTorch.

With r = 1/√(mean(x²) + eps) the output is y = x · r · (weight + offset). Writing g = dy · (weight + offset) and
n = x · r, the derivative of r contributes the part of g that points along n:

    dx = r · (g − n · mean(g · n))

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
"""

import torch
from torch import Tensor


def rms_norm(
    x_TH: Tensor,
    weight_H: Tensor,
    *,
    eps: float,
    offset: float = 0.0,
    residual_TH: Tensor | None = None,
    sum_out: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.rms_norm.rms_norm`; no argument is checked here."""
    if out is None:
        out = torch.empty(x_TH.shape, dtype=x_TH.dtype, device=x_TH.device)
    if sum_out is not None and residual_TH is not None:
        x_TH = sum_out.copy_(x_TH.float() + residual_TH.float())
    normalized = x_TH.float()
    rstd_T = normalized.square().mean(-1).add_(eps).rsqrt_()
    out.copy_(normalized * rstd_T.unsqueeze(-1) * (weight_H.float() + offset))
    return out, rstd_T


def rms_norm_backward(
    dy_TH: Tensor,
    x_TH: Tensor,
    weight_H: Tensor,
    rstd_T: Tensor,
    *,
    offset: float = 0.0,
    add_TH: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See :func:`quatrain.ops.rms_norm.rms_norm_backward`; no argument is checked here."""
    if out is None:
        out = torch.empty(dy_TH.shape, dtype=dy_TH.dtype, device=dy_TH.device)
    rstd_T1 = rstd_T.unsqueeze(-1)
    normalized = x_TH.float() * rstd_T1
    g_TH = dy_TH.float() * (weight_H.float() + offset)
    dx_TH = (g_TH - normalized * (g_TH * normalized).mean(-1, keepdim=True)) * rstd_T1
    return out.copy_(dx_TH if add_TH is None else dx_TH + add_TH.float())
