"""The gated activation f(gate) · up and its gradient in plain PyTorch.

All three activations have the form f(g) = g · s(g): s is the logistic function for SiLU, the normal distribution's for
GELU, and the logistic function of a cubic for GELU's tanh form, because (1 + tanh u)/2 = σ(2u). Hence
f'(g) = s(g) + g · s'(g).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .eight_bits import BLOCK, EightBits

# σ(2u) with u = √(2/π) · (g + 0.044715 g³): Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR


def gated_activation(
    gate_up_TF2: Tensor, *, activation: str, out: Tensor | None = None, eight_bits: EightBits | None = None
) -> Tensor:
    """See :func:`quatrain.ops.gated_activation.gated_activation`; no argument is checked here."""
    if eight_bits is not None:
        _compress(gate_up_TF2, eight_bits)
    gate_TF, up_TF = gate_up_TF2.float().chunk(2, dim=1)
    act_TF = gate_TF * _share(gate_TF, activation)[0] * up_TF
    return act_TF.to(gate_up_TF2.dtype) if out is None else out.copy_(act_TF)


def gated_activation_backward_(
    dact_TF: Tensor,
    gate_up_TF2: Tensor,
    *,
    activation: str,
    eight_bits: EightBits | None = None,
    low_rank: tuple[Tensor, Tensor] | None = None,
) -> None:
    """See :func:`quatrain.ops.gated_activation.gated_activation_backward_`; no argument is checked here."""
    values_TF2 = gate_up_TF2.float() if eight_bits is None else _expand(eight_bits)
    gate_TF, up_TF = values_TF2.chunk(2, dim=1)
    gradient_TF = dact_TF.float()
    if low_rank is not None:
        dh_TR, a_RF = low_rank
        gradient_TF = gradient_TF + dh_TR.float() @ a_RF.float()
    share_TF, slope_TF = _share(gate_TF, activation)
    passed_TF = gate_TF * share_TF
    d_gate_TF = gradient_TF * up_TF * (share_TF + gate_TF * slope_TF)
    d_up_TF = gradient_TF * passed_TF
    dact_TF.copy_(passed_TF * up_TF)
    gate_up_TF2.copy_(torch.cat((d_gate_TF, d_up_TF), dim=1))


def _share(gate: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """s(g), the share of the gate that passes, and its derivative."""
    if activation == "gelu":
        share = torch.special.ndtr(gate)
        return share, torch.exp(-0.5 * gate * gate) * (1 / math.sqrt(2 * math.pi))
    if activation == "gelu_tanh":
        square = gate * gate
        share = torch.sigmoid(gate * (LINEAR + CUBIC * square))
        return share, share * (1 - share) * (LINEAR + 3 * CUBIC * square)
    share = torch.sigmoid(gate)
    return share, share * (1 - share)


def _compress(gate_up_TF2: Tensor, out: EightBits) -> None:
    values_T2BV = _in_blocks(gate_up_TF2.float())
    largest_T2B = values_T2BV.abs().amax(dim=3)
    steps_T2B = 127 / torch.where(largest_T2B > 0, largest_T2B, 1.0)
    codes_T2BV = torch.floor(values_T2BV * steps_T2B[..., None] + 0.5)
    columns = gate_up_TF2.shape[1] // 2
    out.codes_TF2.copy_(codes_T2BV.flatten(2)[..., :columns].flatten(1))
    out.scales_TB2.copy_((largest_T2B / 127).flatten(1))


def _expand(eight_bits: EightBits) -> Tensor:
    columns = eight_bits.codes_TF2.shape[1] // 2
    values_T2BV = _in_blocks(eight_bits.codes_TF2.float()) * eight_bits.scales_TB2.unflatten(1, (2, -1))[..., None]
    return values_T2BV.flatten(2)[..., :columns].flatten(1)


def _in_blocks(values_TF2: Tensor) -> Tensor:
    """[T, 2, blocks, BLOCK], with zeros behind each half's last column."""
    halves_T2F = values_TF2.unflatten(1, (2, -1))
    return F.pad(halves_T2F, (0, -halves_T2F.shape[2] % BLOCK)).unflatten(2, (-1, BLOCK))
