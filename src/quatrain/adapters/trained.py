"""An adapter as training leaves it in the middle of a run, with the base that it is trained on.

Elsewhere an adapter is for the base as published. Training goes on from what it had: the same tensors, of the same
ranks, on a base that was changed in the same way.
"""

from pathlib import Path

from torch import nn

from quatrain.adapters.attach import adapter_layers
from quatrain.adapters.loading import put_on, stored_adapter
from quatrain.adapters.peft_format import read_adapter, write_adapter
from quatrain.adapters.provenance import Provenance
from quatrain.adapters.starts.changed_base import Start
from quatrain.adapters.starts.sharing import STARTS, read_starts, restore_starts, starts_of
from quatrain.errors import AdapterError


def save_trained(model: nn.Module, folder: Path, *, base: str | None, provenance: Provenance) -> None:
    """Write the adapter as it is; :func:`base_change` tells what else belongs to it.

    Raises:
        AdapterError: the model carries no adapter.
        OutputError: the folder can't be written.
    """
    write_adapter(stored_adapter(model, base, provenance, as_trained=True), folder)


def base_change(model: nn.Module) -> dict[str, Start]:
    """What the adapter's start has taken out of the base, to be written by ``save_starts``; empty if nothing."""
    return starts_of(adapter_layers(model))


def load_trained(model: nn.Module, folder: Path) -> nn.Module:
    """Put on `model`, to be trained, what `save_trained` and `save_starts` wrote; its base is changed as it was then.

    Raises:
        AdapterError: it doesn't fit, or the weights from before quantization can't be read again.
    """
    adapter = read_adapter(folder, as_trained=True)
    changed = (folder / STARTS).is_file()
    if changed != (adapter.init_lora_weights is not True):
        raise AdapterError(f"{folder} has lost its {STARTS}; use an earlier checkpoint")
    put_on(model, adapter, folder, trainable=True, force=True)
    if changed:
        restore_starts(model, adapter_layers(model), read_starts(folder / STARTS))
    return model
