"""An adapter as training leaves it in the middle of a run, with the base that it is trained on.

Elsewhere an adapter is for the base as published. Training goes on from what it had: the same tensors, of the same
ranks, on a base that was changed in the same way, in four bits or in 16.
"""

from pathlib import Path

from torch import nn

from quatrain.adapters.loading import put_on, stored_adapter
from quatrain.adapters.peft_format import read_adapter, write_adapter
from quatrain.adapters.provenance import Provenance
from quatrain.adapters.starts.start import STARTS
from quatrain.errors import AdapterError


def save_trained(model: nn.Module, folder: Path, *, base: str | None, provenance: Provenance) -> None:
    """Write the adapter as it is, and what its start has taken out of the base.

    Raises:
        AdapterError: the model carries no adapter.
        OutputError: the folder can't be written.
    """
    write_adapter(stored_adapter(model, base, provenance, as_trained=True), folder)


def load_trained(model: nn.Module, folder: Path) -> nn.Module:
    """Put on `model`, to be trained, what `save_trained` wrote; its base is changed as it was then.

    Raises:
        AdapterError: it doesn't fit, or the weights from before quantization can't be read again.
    """
    adapter = read_adapter(folder, as_trained=True)
    if bool(adapter.starts) != (adapter.init_lora_weights is not True):
        raise AdapterError(f"{folder} has lost its {STARTS}; use an earlier checkpoint")
    return put_on(model, adapter, folder, trainable=True, force=True)
