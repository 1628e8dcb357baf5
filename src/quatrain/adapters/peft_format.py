"""PEFT's adapter folder: tensors, configuration and model card, written and read.

`adapter_model.safetensors` has the keys ``base_model.model.<module>.lora_A.weight`` [r, in] and ``….lora_B.weight``
[out, r], and in its metadata what it was trained on (``provenance.py``); `adapter_config.json` is the business of
``peft_config.py``.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quatrain.adapters.attach import adapter_layers, replace_module
from quatrain.adapters.lora import LoraLinear, linear_features
from quatrain.adapters.model_card import write_card
from quatrain.adapters.peft_config import read_config, write_config
from quatrain.adapters.provenance import (
    Provenance,
    base_identity,
    check_base,
    provenance_of,
    read_provenance,
    to_metadata,
)
from quatrain.adapters.targets import adaptable_linears
from quatrain.errors import AdapterError

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_HALVES = {".lora_A.weight": "lora_A", ".lora_B.weight": "lora_B"}


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    *,
    base_model_name_or_path: str | None = None,
    provenance: Provenance | None = None,
) -> Path:
    """Write the model's adapter in PEFT's format, so that ``PeftModel.from_pretrained(base, folder)`` loads it.

    Args:
        model: a model that carries LoRA layers.
        folder: made when missing; its two adapter files are overwritten, a `README.md` is not.
        base_model_name_or_path: name of the base, stored for those who load the adapter. Default: what the model was
            loaded from.
        provenance: what the adapter was trained on. Default: what the model itself knows, which isn't its tokenizer.

    Raises:
        AdapterError: the model carries no adapter.
    """
    layers = adapter_layers(model)
    if not layers:
        raise AdapterError("this model carries no adapter: call `attach_lora(model)` before saving one")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{_PREFIX}{name}.{half}.weight": getattr(layer, half).detach().cpu().contiguous()
        for name, layer in layers.items()
        for half in ("lora_A", "lora_B")
    }
    provenance = provenance or provenance_of(model)
    base = base_model_name_or_path or (provenance.base and provenance.base.name)
    save_file(tensors, folder / WEIGHTS, metadata=to_metadata(provenance))
    revision = provenance.base.revision if provenance.base else None
    write_config(folder, layers, model, base=base, revision=revision)
    write_card(folder, base)
    return folder


def load_adapter(model: nn.Module, folder: str | Path, *, trainable: bool = False, force: bool = False) -> nn.Module:
    """Load an adapter in PEFT's format into `model`: its LoRA layers are attached, or filled when they are there.

    Args:
        model: a base, or a model that carries an adapter of exactly the same layers and ranks.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        trainable: leave the adapter's tensors with ``requires_grad``.
        force: load it although it was trained on a base with other weights.

    Raises:
        AdapterError: a file is missing or damaged, the adapter uses a feature that Quatrain doesn't compute, or it
            was trained on another base or doesn't fit the model; nothing is changed then.
    """
    folder = Path(folder)
    config = read_config(folder)
    halves = _pair(_read_tensors(folder / WEIGHTS), folder)
    if not force:
        check_base(read_provenance(folder / WEIGHTS), base_identity(model), folder)
    linears = adaptable_linears(model)
    present = adapter_layers(model)
    _check_fit(halves, linears, present, folder)
    model.requires_grad_(False)
    for name, (a_RI, b_OR) in halves.items():
        layer = present.get(name) or LoraLinear(linears[name], r=a_RI.shape[0], lora_alpha=1)
        layer.lora_alpha = config.alpha_of(name)
        layer.lora_dropout = config.lora_dropout
        layer.use_rslora = config.use_rslora
        with torch.no_grad():
            layer.lora_A.copy_(a_RI)
            layer.lora_B.copy_(b_OR)
        layer.lora_A.requires_grad_(trainable)
        layer.lora_B.requires_grad_(trainable)
        if name not in present:
            replace_module(model, name, layer.train(model.training))
    return model


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise AdapterError(f"{path} is missing; adapters stored as pickles (.bin) are not loaded: save as safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}
    except SafetensorError as error:
        raise AdapterError(f"{path} is damaged: {error}") from error


def _pair(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by module name."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        half = next((suffix for suffix in _HALVES if key.endswith(suffix)), None)
        if half is None or not key.startswith(_PREFIX):
            raise AdapterError(f"{folder}: no LoRA tensor has the name {key!r}")
        name = key.removeprefix(_PREFIX).removesuffix(half)
        halves.setdefault(name, {})[_HALVES[half]] = tensor
    incomplete = [name for name, pair in halves.items() if len(pair) != 2]
    if incomplete or not halves:
        raise AdapterError(
            f"{folder}: lora_A and lora_B come in pairs; incomplete: {incomplete or 'all, the file is empty'}"
        )
    return {name: (pair["lora_A"], pair["lora_B"]) for name, pair in halves.items()}


def _check_fit(
    halves: Mapping[str, tuple[Tensor, Tensor]],
    linears: Mapping[str, nn.Module],
    present: Mapping[str, LoraLinear],
    folder: Path,
) -> None:
    if present and set(present) != set(halves):
        raise AdapterError("the model carries another adapter: take it off with `detach_lora(model)` first")
    for name, (a_RI, b_OR) in halves.items():
        linear = linears.get(name)
        if linear is None:
            raise AdapterError(
                f"{folder} adapts {name!r}, which this model doesn't have; its linears look like "
                f"{next(iter(linears), 'none')!r}. Was the adapter trained on another base?"
            )
        want = _shapes(linear, r=a_RI.shape[0] if a_RI.ndim == 2 else -1)
        if (tuple(a_RI.shape), tuple(b_OR.shape)) != want:
            raise AdapterError(
                f"{folder}: {name} needs lora_A and lora_B of shapes {want}, found "
                f"{(tuple(a_RI.shape), tuple(b_OR.shape))}. Was the adapter trained on another base or rank?"
            )
        if not (torch.isfinite(a_RI).all() and torch.isfinite(b_OR).all()):
            raise AdapterError(f"{folder}: {name} holds values that aren't finite; the adapter is damaged")


def _shapes(linear: nn.Module, *, r: int) -> tuple[tuple[int, int], tuple[int, int]]:
    inputs, outputs = linear_features(linear)
    if isinstance(linear, LoraLinear):
        r = linear.r
    return (r, inputs), (outputs, r)
