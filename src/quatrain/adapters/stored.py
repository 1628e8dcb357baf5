"""An adapter by itself: its matrices by module name, without a base.

This is what lies in an adapter's folder. What only works on adapters (showing, combining, changing the rank) works on
this, so that no base has to be loaded for it; a model gets its layers from it (`loading.py`).

Legend: R rank, I inputs, O outputs of a linear.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quatrain.adapters.provenance import Provenance
from quatrain.adapters.selection import Selection


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
        """Whether it changes nothing, as an adapter that was never trained."""
        return not (torch.any(self.a_RI) and torch.any(self.b_OR))

    def delta(self) -> Tensor:
        """What is added to the weight, [out, in]."""
        return self.b_OR @ self.a_RI * self.scaling


@dataclass(frozen=True, kw_only=True)
class StoredAdapter:
    """What a folder in PEFT's format holds."""

    layers: Mapping[str, LowRank]
    """By module name, in the order of the base's modules."""
    selection: Selection
    """How PEFT finds these layers in the base."""
    lora_dropout: float = 0.0
    """Dropout of the adapter's input while training."""
    base: str | None = None
    """`base_model_name_or_path`: a hub name or a path."""
    revision: str | None = None
    """Of the base, on the hub."""
    provenance: Provenance | None = None
    """What it was trained on; None when another program wrote it."""


def in_module_order(names: Iterable[str]) -> list[str]:
    """Names sorted as people count, blocks 2 before 10: files of tensors are in the order of letters."""
    return sorted(names, key=lambda name: [(not part.isdigit(), part.zfill(9)) for part in name.split(".")])
