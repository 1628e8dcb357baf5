"""A frozen linear layer whose weight stays in four bits.

``forward`` dequantizes the weight, multiplies, and drops it; ``backward`` dequantizes it again for the input's
gradient. Between the two nothing is kept but the 4-bit tensor, which the module holds anyway: autograd's own linear
would keep the 16-bit weight of every layer alive until its backward, which is the whole model in 16 bits.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .module import QuantizedModule
from .tensor import QuantizedTensor, quantize_4bit


class _AddFrozenLinear(torch.autograd.Function):
    """``y += x @ dequantize(weight).T`` in place, rounded once. Two-dimensional."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: QuantizedTensor) -> Tensor:
        ctx.weight = weight
        y.addmm_(x, _matrix(weight, x).T)
        ctx.mark_dirty(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (grad,) = grad_outputs
        return grad, grad @ _matrix(ctx.weight, grad) if ctx.needs_input_grad[1] else None, None


class _FrozenLinear(torch.autograd.Function):
    """``x @ dequantize(weight).T + bias``, with gradients for ``x`` and ``bias``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: QuantizedTensor) -> Tensor:
        # Not save_for_backward: hooks that offload saved activations have no business with a resident weight.
        ctx.weight = weight
        ctx.bias_dtype = None if bias is None else bias.dtype
        matrix = _matrix(weight, x)
        if bias is None:
            return nn.functional.linear(x, matrix)
        # Not `linear` with a bias: its result is a view when x has batches, and what a custom function returns may be
        # updated in place only if it is a tensor of its own.
        y = x.new_empty(*x.shape[:-1], matrix.shape[0])
        torch.addmm(bias.to(x.dtype), x.reshape(-1, x.shape[-1]), matrix.T, out=y.view(-1, y.shape[-1]))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grad_outputs
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ _matrix(ctx.weight, grad)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype)
        return grad_x, grad_bias, None


def _matrix(weight: QuantizedTensor, like: Tensor) -> Tensor:
    """The weight in the type and on the device of `like`, fetched from where it is lodged."""
    if weight.device != like.device:
        weight = weight.map(lambda tensor: tensor.to(like.device, non_blocking=True))
    return weight.dequantize(like.dtype)


class QuantizedLinear(QuantizedModule):
    """``nn.Linear`` with a frozen 4-bit weight.

    The weight is dequantized to ``compute_dtype`` (under autocast to autocast's type), ``x`` is cast to it, and the
    result is cast back to the type of ``x``; under autocast it stays in autocast's type, as with ``nn.Linear``.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: QuantizedTensor, bias: nn.Parameter | None, compute_dtype: torch.dtype):
        super().__init__(weight, compute_dtype)
        self.out_features, self.in_features = weight.shape
        self.register_parameter("bias", bias)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        quant_type: str = "nf4",
        block_size: int = 64,
        double_quant: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> "QuantizedLinear":
        """Quantize ``linear``'s weight; its bias is shared. ``compute_dtype`` is the weight's type by default."""
        weight = quantize_4bit(linear.weight, quant_type, block_size, double_quant)
        return cls.from_quantized(weight, linear.bias, compute_dtype or linear.weight.dtype)

    @classmethod
    def from_quantized(
        cls, weight: QuantizedTensor, bias: nn.Parameter | None = None, compute_dtype: torch.dtype | None = None
    ) -> "QuantizedLinear":
        """A layer around a quantized ``weight`` [out, in]; ``compute_dtype`` is by default the weight's own type."""
        return cls(weight, bias, compute_dtype or weight.dtype)

    def product_dtype(self, x: Tensor) -> torch.dtype:
        """The type in which ``forward(x)`` multiplies: autocast's, or ``compute_dtype``."""
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.compute_dtype

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] → [..., out]."""
        x_cast = x.to(self.product_dtype(x))
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return _FrozenLinear.apply(x_cast, self.bias, self.quantized)  # pyright: ignore[reportReturnType]
        return _FrozenLinear.apply(x_cast, self.bias, self.quantized).to(x.dtype)  # pyright: ignore

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """``forward(x)`` [T, out] of ``x`` [T, in] added to ``y`` in place; both are of ``product_dtype``.

        Product and ``y`` are rounded once, as one sum; a bias is added behind.
        """
        y = _AddFrozenLinear.apply(y, x, self.quantized)  # pyright: ignore[reportAssignmentType]
        return y if self.bias is None else y.add_(self.bias)

    def extra_repr(self) -> str:
        kind = f"{self.quantized.quant_type}, blocks of {self.quantized.block_size}"
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {kind}"
