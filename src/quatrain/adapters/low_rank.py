"""The update of one linear as two thin matrices, and the two ways to write one whose start has changed its base.

Legend: R rank, I inputs, O outputs of a linear.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quatrain.adapters.starts.start import Start


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The update of one linear: W becomes W + scaling · B A."""

    a_RI: Tensor
    """PEFT's ``lora_A.weight``."""
    b_OR: Tensor
    """PEFT's ``lora_B.weight``."""
    lora_alpha: float
    """Numerator of the scale."""
    use_rslora: bool = False
    """Whether the scale divides by √r instead of r; PEFT has one setting for all layers."""
    magnitude_O: Tensor | None = None
    """DoRA's ``lora_magnitude_vector``: then the update isn't all, see :class:`DoraLinear`."""

    @property
    def r(self) -> int:
        return self.a_RI.shape[0]

    @property
    def scaling(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of the linear."""
        return self.b_OR.shape[0], self.a_RI.shape[1]

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing: B is zero, as before training, or the scale, or its halves cancel."""
        half = self.r // 2
        taken_back = (
            self.r == 2 * half
            and torch.equal(self.a_RI[:half], self.a_RI[half:])
            and torch.equal(self.b_OR[:, :half], -self.b_OR[:, half:])
        )
        return taken_back or not (self.lora_alpha and torch.any(self.a_RI) and torch.any(self.b_OR))

    def delta(self) -> Tensor:
        """What is added to the weight, [out, in]."""
        return self.b_OR @ self.a_RI * self.scaling

    def delta_norm(self) -> float:
        """Frobenius norm of `delta()`, which isn't made: ‖BA‖² = Σ (BᵀB ∘ AAᵀ), two matrices as large as the rank."""
        a_RI, b_OR = self.a_RI.float(), self.b_OR.float()
        squared = ((b_OR.T @ b_OR) * (a_RI @ a_RI.T)).sum().clamp(min=0)
        return abs(self.scaling) * float(squared.sqrt())

    def merge(self, weight_OI: Tensor) -> Tensor:
        """What a linear without an adapter would need as its weight, [out, in] in float32.

        Args:
            weight_OI: the base's weight, the quantized one or the one that it stands for.
        """
        a_RI, b_OR = self.a_RI.to(weight_OI.device).float(), self.b_OR.to(weight_OI.device).float()
        merged_OI = weight_OI.float().addmm(b_OR, a_RI, alpha=self.scaling)
        if self.magnitude_O is None:
            return merged_OI
        magnitude_O = self.magnitude_O.to(weight_OI.device).float()
        return merged_OI * (magnitude_O / merged_OI.norm(dim=1))[:, None]


def published(trained: LowRank, start: Start) -> LowRank:
    """For the base as published, what `trained` is for that which `start` has changed.

    W = base + s·B₀A₀, so base + s·B A = W + s·(B A − B₀A₀): a product of rank 2r, whose alpha keeps the scale.
    """
    device = trained.a_RI.device
    return replace(
        trained,
        a_RI=torch.cat([trained.a_RI, start.a_RI.to(device)]),
        b_OR=torch.cat([trained.b_OR, -start.b_OR.to(device)], dim=1),
        lora_alpha=trained.lora_alpha * _twice_the_rank(trained),
    )


def trained_half(layer: LowRank) -> LowRank:
    """What :func:`published` was made of."""
    r = layer.r // 2
    alpha = layer.lora_alpha / _twice_the_rank(layer)
    return replace(layer, a_RI=layer.a_RI[:r], b_OR=layer.b_OR[:, :r], lora_alpha=alpha)


def is_published(layer: LowRank, start: Start) -> bool:
    """Whether `layer` is what :func:`published` makes with this start."""
    r = len(start.a_RI)
    return (
        layer.r == 2 * r
        and torch.equal(layer.a_RI[r:].float(), start.a_RI)
        and torch.equal(layer.b_OR[:, r:].float(), -start.b_OR)
        and start.taken_b_OR.shape == start.b_OR.shape
        and start.taken_a_RI.shape == start.a_RI.shape
    )


def _twice_the_rank(layer: LowRank) -> float:
    """What alpha has to grow by when the rank doubles."""
    return 2**0.5 if layer.use_rslora else 2
