"""An adapter by itself: its matrices by module name, without a base.

This is what lies in an adapter's folder. What only works on adapters (showing, combining, changing the rank) works on
this, so that no base has to be loaded for it; a model gets its layers from it (`loading.py`).

Legend: R rank, I inputs, O outputs of a linear.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
        """Whether it changes nothing, as an adapter that was never trained."""
        return not (torch.any(self.a_RI) and torch.any(self.b_OR))

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


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Rows of an embedding or a head that were trained."""

    indices: tuple[int, ...]
    """Which."""
    rows_NH: Tensor
    """The rows themselves."""


@dataclass(frozen=True, kw_only=True)
class StoredAdapter:
    """What a folder in PEFT's format holds."""

    layers: Mapping[str, LowRank]
    """By module name, block after block."""
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
    token_rows: Mapping[str, StoredRows] = field(default_factory=dict)
    """By the name of their table. A head that shares the embedding's table isn't named itself."""
    modules: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Parameters of modules that were trained whole, by the module's name."""
    init_lora_weights: bool | str = True
    """The start that has changed the base which this adapter is for; true when that is the base as published."""

    @property
    def beyond_lora(self) -> str | None:
        """What it holds besides low-rank updates, in words; None for plain LoRA."""
        kinds = {
            "DoRA's magnitudes": any(layer.magnitude_O is not None for layer in self.layers.values()),
            "trained token rows": bool(self.token_rows),
            "modules that were trained whole": bool(self.modules),
        }
        return " and ".join(words for words, there in kinds.items() if there) or None

    def merge(self, parameter: str, weight: Tensor) -> Tensor:
        """What a parameter of the base becomes without the adapter beside it: float32, or `weight` if it stays.

        Args:
            parameter: its name in the model, such as ``model.layers.0.mlp.up_proj.weight``.
            weight: the base's, as the base stores it.
        """
        module, _, leaf = parameter.rpartition(".")
        if leaf in self.modules.get(module, ()):
            return self.modules[module][leaf].to(weight.device).float()
        if leaf == "weight" and module in self.layers:
            turned = self.selection.fan_in_fan_out
            merged_OI = self.layers[module].merge(weight.T if turned else weight)
            return merged_OI.T if turned else merged_OI
        if leaf == "weight" and module in self.token_rows:
            rows = self.token_rows[module]
            indices = torch.tensor(rows.indices, device=weight.device)
            return weight.float().index_copy(0, indices, rows.rows_NH.to(weight.device).float())
        return weight


def block_after_block(names: Iterable[str]) -> list[str]:
    """Module names sorted as people count, block 2 before block 10."""

    def key(name: str) -> list[tuple[bool, str]]:
        return [(not part.isdigit(), part.zfill(9) if part.isdigit() else part) for part in name.split(".")]

    return sorted(names, key=key)
