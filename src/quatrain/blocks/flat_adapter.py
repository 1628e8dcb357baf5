"""All adapters of a model as two flat float32 buffers, one for values and one for gradients.

The parameters stay the objects they are, for optimizers, checkpoints and PEFT's format; only their storage moves, so
that each is a view. A gradient is then added where it belongs by whoever computes it, a step's gradients are zeroed by
one launch, and the matrices A of one product lie below one another, as the one product that makes their gradients
writes them.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from quatrain.blocks.product import JoinedProduct


class FlatAdapter:
    """Takes over the storage of the adapters in `products`. Parameters must be float32 on one device."""

    def __init__(self, products: Sequence[JoinedProduct]):
        self.parameters = [parameter for product in products for parameter in _parameters(product)]
        total = sum(parameter.numel() for parameter in self.parameters)
        device = self.parameters[0].device if self.parameters else None
        self.values = torch.empty(total, device=device)
        self.gradients = torch.zeros(total, device=device)
        self._gradient_views = self._take_over()
        self._hand_out(products)

    def attach_gradients(self) -> None:
        """Make each parameter's `.grad` its view. Gradients that an optimizer dropped start again from zero."""
        if all(p.grad is view for p, view in zip(self.parameters, self._gradient_views, strict=True)):
            return
        self.gradients.zero_()
        for parameter, view in zip(self.parameters, self._gradient_views, strict=True):
            parameter.grad = view

    def _take_over(self) -> list[Tensor]:
        views, start = [], 0
        for parameter in self.parameters:
            part = slice(start, start + parameter.numel())
            value = self.values[part].view_as(parameter)
            value.copy_(parameter.detach())
            parameter.data = value
            views.append(self.gradients[part].view_as(parameter))
            start = part.stop
        return views

    def _hand_out(self, products: Sequence[JoinedProduct]) -> None:
        start = 0
        for product in products:
            numel = product.rank * product.in_features
            product.gradient_of_a_RK = self.gradients[start : start + numel].view(product.rank, -1) if numel else None
            start += sum(parameter.numel() for parameter in _parameters(product))


def _parameters(product: JoinedProduct) -> Iterator[nn.Parameter]:
    """First all A, then all B."""
    for half in ("lora_A", "lora_B"):
        for part in product.adapted:
            yield getattr(part.lora, half)
