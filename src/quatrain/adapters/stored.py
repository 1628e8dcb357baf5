"""An adapter by itself: its matrices by module name, without a base.

This is what lies in an adapter's folder. What only works on adapters (showing, combining, changing the rank) works on
this, so that no base has to be loaded for it; a model gets its layers from it (`loading.py`).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from quatrain.adapters.low_rank import LowRank, trained_half
from quatrain.adapters.provenance import Provenance
from quatrain.adapters.selection import Selection
from quatrain.adapters.starts.start import Start


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
    starts: Mapping[str, Start] = field(default_factory=dict)
    """By module name, what a quantized base was quantized without while this adapter was trained on it."""

    @property
    def beyond_lora(self) -> str | None:
        """What it holds besides low-rank updates, in words; None for plain LoRA."""
        kinds = {
            "DoRA's magnitudes": any(layer.magnitude_O is not None for layer in self.layers.values()),
            "trained token rows": bool(self.token_rows),
            "modules that were trained whole": bool(self.modules),
        }
        return " and ".join(words for words, there in kinds.items() if there) or None

    def as_trained(self, modules: Collection[str]) -> "StoredAdapter":
        """The same for a base that `starts` change in `modules`, and only there.

        The layers are those of :func:`published`, whose first halves were trained.
        """
        starts = {name: start for name, start in self.starts.items() if name in modules}
        layers = {name: trained_half(layer) if name in starts else layer for name, layer in self.layers.items()}
        name = next((start.name for start in starts.values()), True)
        return replace(self, layers=layers, starts=starts, init_lora_weights=name)

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
