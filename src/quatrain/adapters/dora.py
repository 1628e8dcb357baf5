"""DoRA: the magnitude of each output learned by itself, so that A and B only turn the weight's rows.

    y = m / ‖W + s·B A‖ · (W x + s·B A x) + bias,   ‖·‖ the norm of each row, m [out] trained, at first ‖W + s·B A‖

The norm is taken for a constant in backward (section 4.3 of the paper), as PEFT does. Computed as it stands, it needs
the whole W + s·B A in each forward. Here it is put together from three parts, none larger than [out, r] or [r, r]:

    ‖W + s·B A‖² = ‖W‖² + 2s · Σ B ∘ (W Aᵀ) + s² · Σ B ∘ (B A Aᵀ)      (sums along rows)

of which the first never changes. Dropout touches the update's input only; PEFT sends a dropped input through the base a
second time, which has the same mean and costs another product with W.

Source: Liu et al. 2024 (arXiv 2402.09353); ``tuners/lora/dora.py`` of PEFT 0.21.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn

from quatrain.adapters.lora import LoraLinear, linear_weight


class DoraLinear(LoraLinear):
    """A LoRA layer with a trained magnitude for each output; arguments as for :class:`LoraLinear`.

    ``lora_magnitude_vector`` [out] is float32 and starts at the norm of the rows of W + s·B A, so that the layer
    computes what LoRA computes until the first update.
    """

    parameter_names = (*LoraLinear.parameter_names, "lora_magnitude_vector")
    row_squares: Tensor

    def __init__(self, base_layer: nn.Module, **settings: Any):
        super().__init__(base_layer, **settings)
        squares = linear_weight(base_layer).detach().float().square().sum(1)
        self.register_buffer("row_squares", squares, persistent=False)
        self.lora_magnitude_vector = nn.Parameter(self._row_norms())
        self._norms: tuple[tuple[int, ...], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] → [..., out]."""
        y = super().forward(x)
        factor = (self.lora_magnitude_vector / self.row_norms()).to(y.dtype)
        if self.bias is None:
            return y * factor
        bias = self.bias.to(y.dtype)
        return (y - bias) * factor + bias

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """‖W + s·B A‖ of each row, float32 [out]. Remembered while evaluating, where it is the same at every token."""
        version = (self.lora_A._version, self.lora_B._version)
        if self._norms is None or self.training or self._norms[0] != version:
            self._norms = version, self._row_norms()
        return self._norms[1]

    def train(self, mode: bool = True) -> Self:
        # A fused optimizer may write to A and B without telling autograd, so their versions alone don't say enough.
        self._norms = None
        return super().train(mode)

    @torch.no_grad()
    def _row_norms(self) -> Tensor:
        a_RI, b_OR, weight_OI = self.lora_A.float(), self.lora_B.float(), linear_weight(self.base_layer)
        across = b_OR * (weight_OI @ a_RI.T.to(weight_OI.dtype)).float()
        own = b_OR * (b_OR @ (a_RI @ a_RI.T))
        squares = self.row_squares + (2 * self.scaling * across + self.scaling**2 * own).sum(1)
        return squares.clamp_min(0).sqrt()
