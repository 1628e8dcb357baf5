"""The logits themselves, for whoever wants to look at them: training never does (`ops/linear_cross_entropy`).

They are made in float32 from the head's own weights, whatever type those have. Rounded to bfloat16, logits between 16
and 32 lie an eighth apart: choices that a model finds about as likely tie, and the first of them wins.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_ELEMENTS = 1 << 25
"""Logits that exist at once, and elements of the head in float32: 128 MiB each."""


@torch.no_grad()
def chunks_of_logits(hidden_NH: Tensor, head: Any, scale: float, softcap: float | None) -> Iterator[Tensor]:
    """[C, V] in float32 for the next C of N rows, as often as there are any.

    Args:
        hidden_NH: behind the final norm.
        head: a linear layer.
        scale, softcap: what the model does to its logits (`families.logit_options`).
    """
    weight_VH, bias_V = head.weight, getattr(head, "bias", None)
    for hidden_CH in hidden_NH.split(max(1, _ELEMENTS // weight_VH.shape[0])):
        logits_CV = _product(hidden_CH, weight_VH)
        if bias_V is not None:
            logits_CV += bias_V
        logits_CV *= scale
        yield logits_CV if softcap is None else softcap * torch.tanh(logits_CV / softcap)


def _product(hidden_CH: Tensor, weight_VH: Tensor) -> Tensor:
    """hidden · weightᵀ in float32."""
    if hidden_CH.is_cuda and hidden_CH.dtype != torch.float32:
        return torch.mm(hidden_CH, weight_VH.T, out_dtype=torch.float32)
    hidden_CH = hidden_CH.float()
    parts = weight_VH.split(max(1, _ELEMENTS // weight_VH.shape[1]))
    return torch.cat([hidden_CH @ part_PH.float().T for part_PH in parts], dim=1)
