"""The names of tensors in `adapter_model.safetensors`, written and understood.

After ``base_model.model.`` comes the module's name, then what the tensor is:

| tensor | name behind the module's |
|---|---|
| A [r, in], B [out, r] | ``lora_A.weight``, ``lora_B.weight`` |
| DoRA's magnitudes [out] | ``lora_magnitude_vector`` |
| trained rows [N, H] of an embedding or head | ``token_adapter.trainable_tokens_delta`` |
| a module that was trained whole | its own parameters' names |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from quatrain.adapters.peft_config import StoredConfig
from quatrain.adapters.stored import StoredAdapter
from quatrain.errors import AdapterError

_PREFIX = "base_model.model."
_OF_LAYERS = {".lora_A.weight": "a_RI", ".lora_B.weight": "b_OR", ".lora_magnitude_vector": "magnitude_O"}
_ROWS = ".token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class Sorted:
    """A file's tensors by module name."""

    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Of adapted linears, by the fields of :class:`LowRank`."""
    rows: dict[str, Tensor] = field(default_factory=dict)
    """Trained rows of tables."""
    modules: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Parameters of modules that were trained whole."""


def to_tensors(adapter: StoredAdapter) -> dict[str, Tensor]:
    """What a folder's file is to hold, on the CPU."""
    named = {
        f"{name}{suffix}": tensor
        for name, layer in adapter.layers.items()
        for suffix, part in _OF_LAYERS.items()
        if (tensor := getattr(layer, part)) is not None
    }
    named |= {f"{name}{_ROWS}": stored.rows_NH for name, stored in adapter.token_rows.items()}
    named |= {
        f"{name}.{parameter}": tensor
        for name, parameters in adapter.modules.items()
        for parameter, tensor in parameters.items()
    }
    return {f"{_PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in named.items()}


def sort_tensors(tensors: Mapping[str, Tensor], config: StoredConfig, folder: Path) -> Sorted:
    """Tell what each tensor is.

    Raises:
        AdapterError: a name means nothing here, or a layer or module lacks a part.
    """
    found = Sorted()
    for key, tensor in tensors.items():
        name = key.removeprefix(_PREFIX)
        part = next((suffix for suffix in _OF_LAYERS if name.endswith(suffix)), None)
        module, _, parameter = name.rpartition(".")
        if part is not None and name != key:
            found.layers.setdefault(name.removesuffix(part), {})[_OF_LAYERS[part]] = tensor
        elif name.endswith(_ROWS) and name != key:
            found.rows[name.removesuffix(_ROWS)] = tensor
        elif name != key and module.endswith(config.modules_to_save):
            found.modules.setdefault(module, {})[parameter] = tensor
        else:
            raise AdapterError(f"{folder}: no LoRA tensor has the name {key!r}")
    _check_whole(found, config, folder)
    return found


def _check_whole(found: Sorted, config: StoredConfig, folder: Path) -> None:
    incomplete = [name for name, parts in found.layers.items() if not {"a_RI", "b_OR"} <= parts.keys()]
    if incomplete or not found.layers:
        raise AdapterError(
            f"{folder}: lora_A and lora_B come in pairs; incomplete: {incomplete or 'all, the file is empty'}"
        )
    odd = [name for name, parts in found.layers.items() if ("magnitude_O" in parts) != config.use_dora]
    if odd:
        raise AdapterError(
            f"{folder}: `use_dora` is {config.use_dora} by its configuration, and {odd[0]} "
            f"{'lacks' if config.use_dora else 'has'} a lora_magnitude_vector. Were the two files saved together?"
        )
    if absent := [t for t in config.modules_to_save if not any(name.endswith(t) for name in found.modules)]:
        raise AdapterError(f"{folder} holds no tensors of {absent[0]!r}, one of its `modules_to_save`")
