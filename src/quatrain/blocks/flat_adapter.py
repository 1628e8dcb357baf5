"""All adapters of some products as flat float32 buffers: one for values, one for gradients.

The parameters stay the objects they are, for optimizers, checkpoints and PEFT's format; only their storage moves, so
that each is a view. First come the matrices A of all products, then all B. A gradient is then added where it belongs by
whoever computes it, a step's gradients are zeroed by one launch, one launch brings all A into the compute dtype, and
the matrices A of one product lie below one another, as operations on a joint product want them.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from quatrain.blocks.product import AdapterGradients, JoinedProduct


class FlatAdapter:
    """Takes over the storage of the adapters in `products`. Parameters must be float32 on one device."""

    def __init__(self, products: Sequence[JoinedProduct], dtype: torch.dtype):
        self.parameters = parameters_of(products)
        total = sum(parameter.numel() for parameter in self.parameters)
        device = self.parameters[0].device if self.parameters else None
        self.gradients = torch.zeros(total, device=device)
        self._gradient_views = views(self.gradients, self.parameters)
        values = torch.empty(total, device=device)
        for parameter, value in zip(self.parameters, views(values, self.parameters), strict=True):
            value.copy_(parameter.detach())
            parameter.data = value
        point_gradients(products, self.gradients)
        self._masters_of_a = values[: sum(product.a_RK.numel() for product in products)]
        self._a = torch.empty_like(self._masters_of_a, dtype=dtype)
        for product, a_RK in zip(products, self._a.split([p.a_RK.numel() for p in products]), strict=True):
            product.a_RK = a_RK.view_as(product.a_RK)

    def refresh(self) -> None:
        """Bring all A in the compute dtype up to date."""
        self._a.copy_(self._masters_of_a)

    def attach_gradients(self) -> None:
        """Make each parameter's `.grad` its view, with the gradient that it has; none is zero."""
        if all(p.grad is view for p, view in zip(self.parameters, self._gradient_views, strict=True)):
            return
        pairs = list(zip(self.parameters, self._gradient_views, strict=True))
        taken_over = [(view, parameter.grad.clone()) for parameter, view in pairs if parameter.grad is not None]
        self.gradients.zero_()
        for parameter, view in pairs:
            parameter.grad = view
        for view, gradient in taken_over:
            view.copy_(gradient)


def parameters_of(products: Sequence[JoinedProduct]) -> list[nn.Parameter]:
    """The adapters' parameters in the flat order."""
    return [*_halves(products, "lora_A"), *_halves(products, "lora_B")]


def views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Consecutive pieces of `flat` in the shapes of `parameters`."""
    pieces = flat.split([parameter.numel() for parameter in parameters])
    return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]


def point_gradients(products: Sequence[JoinedProduct], flat: Tensor) -> None:
    """Let `products` add their adapters' gradients to `flat`, in the flat order."""
    sizes = [product.a_RK.numel() for product in products]
    of_a, of_b = flat.split([sum(sizes), flat.numel() - sum(sizes)])
    b_views = iter(views(of_b, list(_halves(products, "lora_B"))))
    for product, a in zip(products, of_a.split(sizes), strict=True):
        b_NR = tuple(next(b_views) for _ in product.adapted)
        product.gradients = AdapterGradients(a.view_as(product.a_RK), b_NR)


def _halves(products: Sequence[JoinedProduct], half: str) -> Iterator[nn.Parameter]:
    return (getattr(part.lora, half) for product in products for part in product.adapted)
