"""All adapters of a model as two flat float32 buffers, one for values and one for gradients.

The parameters stay the objects they are, for optimizers, checkpoints and PEFT's format; only their storage moves, so
that each is a view. A gradient is then added where it belongs by whoever computes it, a step's gradients are zeroed by
one launch, and the matrices A of one product lie below one another, as the one operation that makes their gradients
writes them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quatrain.blocks.product import AdapterGradients, JoinedProduct


class FlatAdapter:
    """Takes over the storage of the adapters in `products`. Parameters must be float32 on one device."""

    def __init__(self, products: Sequence[JoinedProduct]):
        self.parameters = [parameter for product in products for parameter in parameters_of(product)]
        total = sum(parameter.numel() for parameter in self.parameters)
        device = self.parameters[0].device if self.parameters else None
        self.gradients = torch.zeros(total, device=device)
        self._values = torch.empty(total, device=device)
        self._gradient_views = views(self.gradients, self.parameters)
        for parameter, value in zip(self.parameters, views(self._values, self.parameters), strict=True):
            value.copy_(parameter.detach())
            parameter.data = value
        point_gradients(products, self.gradients)

    def attach_gradients(self) -> None:
        """Make each parameter's `.grad` its view. Gradients that an optimizer dropped start again from zero."""
        if all(p.grad is view for p, view in zip(self.parameters, self._gradient_views, strict=True)):
            return
        self.gradients.zero_()
        for parameter, view in zip(self.parameters, self._gradient_views, strict=True):
            parameter.grad = view


def parameters_of(product: JoinedProduct) -> list[nn.Parameter]:
    """A product's adapter parameters in the flat order: first all A, then all B."""
    return [getattr(part.lora, half) for half in ("lora_A", "lora_B") for part in product.adapted]


def views(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Consecutive pieces of `flat` in the shapes of `parameters`."""
    pieces = flat.split([parameter.numel() for parameter in parameters])
    return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]


def point_gradients(products: Sequence[JoinedProduct], flat: Tensor) -> None:
    """Let `products` add their adapters' gradients to consecutive pieces of `flat`."""
    start = 0
    for product in products:
        parameters = parameters_of(product)
        numel, of_a = sum(p.numel() for p in parameters), product.rank * product.in_features
        piece = flat[start : start + numel]
        b_NR = tuple(views(piece[of_a:], parameters[len(parameters) // 2 :]))
        product.gradients = AdapterGradients(piece[:of_a].view(product.rank, product.in_features), b_NR)
        start += numel
