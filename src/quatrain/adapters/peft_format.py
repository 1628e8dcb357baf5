"""PEFT's adapter folder: tensors, configuration and model card, written and read.

`adapter_model.safetensors` has the tensors, whose names are the business of ``peft_tensors.py``, and in its metadata
what it was trained on (``provenance.py``); `adapter_config.json` is the business of ``peft_config.py``. PEFT takes no
notice of `start.safetensors`, which an adapter has whose start has changed its quantized base (``starts/start.py``).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quatrain.adapters.low_rank import LowRank, is_published
from quatrain.adapters.model_card import CARD, CardFacts, write_card
from quatrain.adapters.peft_config import StoredConfig, read_config, write_config
from quatrain.adapters.peft_tensors import Sorted, sort_tensors, to_tensors
from quatrain.adapters.provenance import read_provenance, to_metadata
from quatrain.adapters.starts.start import STARTS, Start, read_starts, save_starts
from quatrain.adapters.stored import StoredAdapter, StoredRows, block_after_block
from quatrain.errors import AdapterError, OutputError
from quatrain.files import save_tensors, written_aside
from quatrain.untrusted import file_in

WEIGHTS = "adapter_model.safetensors"


def adapter_name(folder: Path) -> str:
    """What to call an adapter that nobody named: its folder, or the run that it is in."""
    folder = folder.absolute()
    return folder.parent.name if folder.name == "adapter" else folder.name


def write_adapter(adapter: StoredAdapter, folder: Path, facts: CardFacts | None = None) -> Path:
    """Write the files aside, read them back, and put them in place. A card that is there, maybe edited, stays.

    Args:
        adapter: what to write.
        folder: made if it isn't there.
        facts: for the card.

    Raises:
        OutputError: the disk can't, or doesn't give back what was written; what was in `folder` is still there.
    """
    tensors = to_tensors(adapter)
    with written_aside(folder) as aside:
        metadata = {"format": "pt"} if adapter.provenance is None else to_metadata(adapter.provenance)
        save_tensors(tensors, aside / WEIGHTS, metadata)
        write_config(aside, adapter)
        if adapter.starts:
            save_starts(adapter.starts, aside / STARTS)
        if not (folder / CARD).exists():
            write_card(aside, adapter, facts)
    if not adapter.starts:
        _forget_starts(folder)
    return folder


def _forget_starts(folder: Path) -> None:
    """Remove those of an adapter that lay there before."""
    try:
        (folder / STARTS).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder / STARTS} is of an earlier adapter and can't be removed ({error})") from error


def read_adapter(folder: str | Path, *, as_trained: bool = False) -> StoredAdapter:
    """An adapter from its folder, without a base.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        as_trained: also read one that is for a changed base.

    Raises:
        AdapterError: a file is missing or damaged, the two contradict each other, values aren't finite, or the adapter
            uses a feature that Quatrain doesn't compute.
    """
    folder = Path(folder)
    config = read_config(folder, as_trained=as_trained)
    found = sort_tensors(_read_tensors(folder / WEIGHTS), config, folder)
    _check_finite(found, folder)
    layers = {name: _layer(name, found.layers[name], config, folder) for name in block_after_block(found.layers)}
    starts = read_starts(folder)
    if config.init_lora_weights is True:
        _check_starts(starts, layers, folder)
    return StoredAdapter(
        layers=layers,
        selection=config.selection,
        lora_dropout=config.lora_dropout,
        base=config.base,
        revision=config.revision,
        provenance=read_provenance(folder / WEIGHTS),
        token_rows={name: _rows(name, rows_NH, config, folder) for name, rows_NH in found.rows.items()},
        modules=found.modules,
        init_lora_weights=config.init_lora_weights,
        starts=starts,
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file_in(path.parent, path.name), framework="pt") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}
    except FileNotFoundError as error:
        raise AdapterError(
            f"{path} is missing; adapters stored as pickles (.bin) are not loaded: save as safetensors"
        ) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{path} is damaged: {error}. Copy or download it again") from error


def _check_finite(found: Sorted, folder: Path) -> None:
    rows = ((name, {"rows": rows_NH}) for name, rows_NH in found.rows.items())
    for name, parts in (*found.layers.items(), *found.modules.items(), *rows):
        if not all(tensor.is_floating_point() for tensor in parts.values()):
            raise AdapterError(f"{folder}: {name} must hold floating-point numbers, and holds others; it is damaged")
        # The layer keeps float32, in which a large float64 is infinite.
        if not all(torch.isfinite(tensor.float()).all() for tensor in parts.values()):
            raise AdapterError(
                f"{folder}: {name} holds values that aren't finite: its training has diverged, or the file is damaged. "
                "Use an earlier checkpoint"
            )


def _check_starts(starts: Mapping[str, Start], layers: Mapping[str, LowRank], folder: Path) -> None:
    for name, start in starts.items():
        if name not in layers or not is_published(layers[name], start):
            raise AdapterError(
                f"{folder}: {STARTS} isn't of the adapter beside it at {name}. Were the two files saved together? "
                "Without that file the adapter is plain LoRA for the base as published"
            )


def _rows(name: str, rows_NH: Tensor, config: StoredConfig, folder: Path) -> StoredRows:
    indices = config.rows_of(name)
    if rows_NH.ndim != 2 or len(rows_NH) != len(indices):
        raise AdapterError(
            f"{folder}: {name} has {len(rows_NH)} trained rows by its tensors and {len(indices)} by "
            "`trainable_token_indices` of its configuration. Were the two files saved together?"
        )
    return StoredRows(indices=indices, rows_NH=rows_NH)


def _layer(name: str, halves: Mapping[str, Tensor], config: StoredConfig, folder: Path) -> LowRank:
    a_RI, b_OR = halves["a_RI"], halves["b_OR"]
    if a_RI.ndim != 2 or b_OR.ndim != 2 or a_RI.shape[0] != b_OR.shape[1] or not a_RI.shape[0]:
        raise AdapterError(
            f"{folder}: lora_A [r, in] and lora_B [out, r] of {name} don't fit each other's shapes: "
            f"{list(a_RI.shape)} and {list(b_OR.shape)}"
        )
    if len(a_RI) != config.rank_of(name):
        raise AdapterError(
            f"{folder}: {name} has rank {len(a_RI)} by its tensors and {config.rank_of(name)} by its configuration, "
            "and the scale depends on it. Were the two files saved together?"
        )
    if not config.selection.takes(name):
        raise AdapterError(
            f"{folder} holds tensors of {name}, which `target_modules` of its configuration doesn't select, so PEFT "
            "would drop them. Were the two files saved together?"
        )
    magnitude_O = halves.get("magnitude_O")
    if magnitude_O is not None and magnitude_O.shape != b_OR.shape[:1]:
        raise AdapterError(
            f"{folder}: lora_magnitude_vector of {name} must have {len(b_OR)} values, found {list(magnitude_O.shape)}"
        )
    return LowRank(
        a_RI=a_RI,
        b_OR=b_OR,
        lora_alpha=config.alpha_of(name),
        use_rslora=config.use_rslora,
        magnitude_O=magnitude_O,
    )
