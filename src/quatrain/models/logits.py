"""The logits themselves, for whoever wants to look at them: training never does (`ops/linear_cross_entropy`)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_ELEMENTS = 1 << 25
"""Logits that exist at once: 128 MiB of them."""


@torch.no_grad()
def chunks_of_logits(hidden_NH: Tensor, head: Any, scale: float, softcap: float | None) -> Iterator[Tensor]:
    """[C, V] in float32 for the next C of N rows, as often as there are any.

    Args:
        hidden_NH: behind the final norm.
        head: a linear layer.
        scale, softcap: what the model does to its logits (`families.logit_options`).
    """
    rows = max(1, _ELEMENTS // head.out_features)
    for hidden_CH in hidden_NH.split(rows):
        logits_CV = head(hidden_CH).float() * scale
        yield logits_CV if softcap is None else softcap * torch.tanh(logits_CV / softcap)
