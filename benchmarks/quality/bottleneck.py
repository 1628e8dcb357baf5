"""Adapters as they were at first (Houlsby et al. 2019, arXiv 1902.00751): a small network behind each half of a block.

Behind attention's and the MLP's last linear, before the residual sum, the output y becomes y + U·gelu(D y), with
D [size, H] and U [H, size] trained. U starts at zero, so the model begins as it is. Two departures from the paper,
both what its successors do on decoders: no biases, and the norms stay frozen. Neither PEFT nor transformers has these.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BEHIND = ("o_proj", "down_proj")
"""The last linear of each half."""


class Bottleneck(nn.Module):
    """A frozen linear with an adapter behind it; masters are float32, products in the linear's type."""

    def __init__(self, linear: nn.Linear, size: int, generator: torch.Generator):
        super().__init__()
        self.linear = linear
        hidden, device = linear.out_features, linear.weight.device
        down_EH = torch.randn(size, hidden, generator=generator) * hidden**-0.5
        self.down_EH = nn.Parameter(down_EH.to(device))
        self.up_HE = nn.Parameter(torch.zeros(hidden, size, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] → [..., H]."""
        y = self.linear(x)
        inner = F.gelu(F.linear(y, self.down_EH.to(y.dtype)))
        return y + F.linear(inner, self.up_HE.to(y.dtype))


def attach_bottlenecks(model: Any, size: int, seed: int) -> list[nn.Parameter]:
    """Freezes `model` and puts adapters into it. → what is trained."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    named = {name: m for name, m in model.named_modules() if name.rpartition(".")[2] in BEHIND}
    layers = {name: Bottleneck(linear, size, generator) for name, linear in named.items()}
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return [parameter for layer in layers.values() for parameter in (layer.down_EH, layer.up_HE)]
