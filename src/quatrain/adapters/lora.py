"""The LoRA layer: one class around any linear that can run forward, whatever its weight's storage.

Masters A and B are float32, because an optimizer step is often smaller than half a unit in the last place of bfloat16.
They are cast to the dtype of the activations for the products. The two thin products form one autograd function, so
that backward keeps x and x·Aᵀ only. They come first, and a 4-bit base adds its product to what they made, in the same
memory and rounded once: added to a product that was rounded before, an update smaller than half its last digit would
be lost.

Source: Hu et al. 2021 (arXiv 2106.09685); scale of rank-stabilized LoRA: Kalajdzievski 2023 (arXiv 2312.03732).
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quatrain.adapters.starts.drawn import draw
from quatrain.quantization import QuantizedLinear, QuantizedModule
from quatrain.quantization.linears import is_transposed

if TYPE_CHECKING:
    from quatrain.adapters.starts.start import Start


class _LowRank(torch.autograd.Function):
    """scale · (x_TI Aᵀ) Bᵀ. T tokens, I inputs, O outputs, R rank."""

    @staticmethod
    def forward(ctx, x_TI: Tensor, a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
        a_RI, b_OR = a_RI.to(x_TI.dtype), b_OR.to(x_TI.dtype)
        h_TR = x_TI @ a_RI.T
        ctx.save_for_backward(x_TI, h_TR, a_RI, b_OR)
        ctx.scale = scale
        return (h_TR * scale) @ b_OR.T

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (dy_TO,) = grads
        x_TI, h_TR, a_RI, b_OR = ctx.saved_tensors
        dh_TR = (dy_TO @ b_OR) * ctx.scale
        dx_TI = dh_TR @ a_RI if ctx.needs_input_grad[0] else None
        da_RI = (dh_TR.T @ x_TI).float()
        db_OR = (dy_TO.T @ h_TR).float().mul_(ctx.scale)
        return dx_TI, da_RI, db_OR, None


def linear_features(linear: Any) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer; GPT-2's ``Conv1D`` keeps them as ``nx`` and ``nf``."""
    if hasattr(linear, "in_features"):
        return linear.in_features, linear.out_features
    return linear.nx, linear.nf


def linear_weight(linear: nn.Module) -> Tensor:
    """A linear's weight [out, in] in its compute dtype, whatever its storage and whichever way round that is."""
    weight: Tensor = linear.weight  # pyright: ignore[reportAssignmentType]
    return weight.T if is_transposed(linear) else weight


def device_of(module: nn.Module) -> torch.device:
    """Where a module's tensors lie."""
    if isinstance(module, QuantizedModule):
        return module.compute_device
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    raise TypeError(f"{type(module).__name__} holds no tensor")


class LoraLinear(nn.Module):
    """A frozen linear with a trained low-rank update beside it.

    Args:
        base_layer: the linear to wrap: ``QuantizedLinear``, ``nn.Linear`` or GPT-2's ``Conv1D``.
        r: rank.
        lora_alpha: numerator of the scale.
        lora_dropout: probability of dropping an element of the update's input while training.
        use_rslora: divide by √r instead of r.
        init_lora_weights: how A and B are drawn, see ``starts/drawn.py``; other starts replace what was drawn.
        generator: CPU generator that draws, so that one seed gives the same adapter on every device.

    By default ``lora_A`` [r, in] starts as PEFT's does (Kaiming uniform with a = √5), ``lora_B`` [out, r] at zero: the
    adapted layer computes exactly what its base computes until the first update. ``parameter_names`` are the attributes
    that hold what is trained; ``start`` is set where the base was changed for the adapter.
    """

    parameter_names: tuple[str, ...] = ("lora_A", "lora_B")

    def __init__(
        self,
        base_layer: nn.Module,
        *,
        r: int,
        lora_alpha: float,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        init_lora_weights: bool | str = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = linear_features(base_layer)
        self.base_layer = base_layer
        self.r, self.lora_alpha, self.lora_dropout, self.use_rslora = r, lora_alpha, lora_dropout, use_rslora
        self.start: Start | None = None
        a_RI, b_OR = draw(
            init_lora_weights, r=r, inputs=self.in_features, outputs=self.out_features, generator=generator
        )
        device = device_of(base_layer)
        self.lora_A = nn.Parameter(a_RI.to(device))
        self.lora_B = nn.Parameter(b_OR.to(device))

    @property
    def scaling(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def weight(self) -> Tensor:
        """The frozen base's weight [out, in], in the base's compute dtype, without the update."""
        return self.base_layer.weight  # pyright: ignore[reportReturnType]

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] → [..., out]."""
        x_TI = self._tokens(x)
        dropped_TI = F.dropout(x_TI, self.lora_dropout) if self.training and self.lora_dropout else x_TI
        update_TO: Tensor = _LowRank.apply(dropped_TI, self.lora_A, self.lora_B, self.scaling)  # pyright: ignore
        y_TO = self._with_base(update_TO, x_TI)
        return y_TO.view(*x.shape[:-1], self.out_features)

    def _tokens(self, x: Tensor) -> Tensor:
        """A row for each token, in the type in which the layer answers: that of `x`, or autocast's."""
        x_TI, kind = x.reshape(-1, x.shape[-1]), x.device.type
        return x_TI.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x_TI

    def _with_base(self, update_TO: Tensor, x_TI: Tensor) -> Tensor:
        """The base's product added to `update_TO`, which is overwritten."""
        base = self.base_layer
        if isinstance(base, QuantizedLinear) and base.product_dtype(x_TI) == x_TI.dtype:
            return base.add_to(update_TO, x_TI)
        return update_TO.add_(base(x_TI))

    def extra_repr(self) -> str:
        return f"r={self.r}, lora_alpha={self.lora_alpha}, lora_dropout={self.lora_dropout}, scaling={self.scaling:g}"
