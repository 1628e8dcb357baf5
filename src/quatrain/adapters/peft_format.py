"""PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`, read and written here and nowhere else.

Keys are ``base_model.model.<module>.lora_A.weight`` [r, in] and ``….lora_B.weight`` [out, r]. An adapter that uses a
PEFT feature that this file doesn't know is refused by name: loading it without that feature would compute something
else.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quatrain.adapters.attach import adapter_layers, replace_module
from quatrain.adapters.lora import LoraLinear, linear_features
from quatrain.adapters.targets import adaptable_linears, describe_targets
from quatrain.errors import AdapterError
from quatrain.quantization.linears import is_transposed

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_HALVES = {".lora_A.weight": "lora_A", ".lora_B.weight": "lora_B"}
# Fields of PEFT's LoraConfig that change what the adapter computes, with the only values that Quatrain computes.
_NEUTRAL = {
    "bias": ("none",),
    "use_dora": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False,),
    "megatron_config": (None,),
}


def save_adapter(model: nn.Module, folder: str | Path, *, base_model_name_or_path: str | None = None) -> Path:
    """Write the model's adapter in PEFT's format, so that ``PeftModel.from_pretrained(base, folder)`` loads it.

    Args:
        model: a model that carries LoRA layers.
        folder: made when missing; its two adapter files are overwritten.
        base_model_name_or_path: name of the base, stored for those who load the adapter.

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
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = _peft_config(layers, adaptable_linears(model), base_model_name_or_path)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def _peft_config(layers: Mapping[str, LoraLinear], linears: Mapping[str, nn.Module], base: str | None) -> dict:
    first = next(iter(layers.values()))
    targets, blocks = describe_targets(layers, linears)
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": is_transposed(first.base_layer),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": blocks,
        "lora_alpha": first.lora_alpha,
        "lora_dropout": first.lora_dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": first.r,
        "rank_pattern": {n: layer.r for n, layer in layers.items() if layer.r != first.r},
        "alpha_pattern": {n: layer.lora_alpha for n, layer in layers.items() if layer.lora_alpha != first.lora_alpha},
        "revision": None,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": first.use_rslora,
    }


def load_adapter(model: nn.Module, folder: str | Path, *, trainable: bool = False) -> nn.Module:
    """Load an adapter in PEFT's format into `model`: its LoRA layers are attached, or filled when they are there.

    Args:
        model: a base, or a model that carries an adapter of exactly the same layers and ranks.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        trainable: leave the adapter's tensors with ``requires_grad``.

    Raises:
        AdapterError: a file is missing or damaged, the adapter uses a feature that Quatrain doesn't compute, or it
            doesn't fit the model; nothing is changed then.
    """
    folder = Path(folder)
    config = _read_config(folder)
    halves = _pair(_read_tensors(folder / WEIGHTS), folder)
    linears = adaptable_linears(model)
    present = adapter_layers(model)
    _check_fit(halves, linears, present, folder)
    model.requires_grad_(False)
    for name, (a_RI, b_OR) in halves.items():
        layer = present.get(name) or LoraLinear(linears[name], r=a_RI.shape[0], lora_alpha=1)
        layer.lora_alpha = _alpha(name, config)
        layer.lora_dropout = config.get("lora_dropout", 0.0)
        layer.use_rslora = config.get("use_rslora", False)
        with torch.no_grad():
            layer.lora_A.copy_(a_RI)
            layer.lora_B.copy_(b_OR)
        layer.lora_A.requires_grad_(trainable)
        layer.lora_B.requires_grad_(trainable)
        if name not in present:
            replace_module(model, name, layer.train(model.training))
    return model


def _alpha(name: str, config: dict[str, Any]) -> float:
    """The layer's own alpha where `alpha_pattern` has one (keys are names or name endings), else the common one."""
    patterns = config.get("alpha_pattern") or {}
    own = (alpha for ending, alpha in patterns.items() if name == ending or name.endswith(f".{ending}"))
    return next(own, config["lora_alpha"])


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"an adapter folder holds {CONFIG} and {WEIGHTS}; {folder} has no {CONFIG}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterError(f"{path}: Quatrain loads adapters of `peft_type` LORA, found {found}")
    foreign = [f"{k}={config[k]}" for k, neutral in _NEUTRAL.items() if k in config and config[k] not in neutral]
    if foreign:
        raise AdapterError(f"{path}: the adapter uses what Quatrain doesn't compute: {', '.join(foreign)}")
    if not isinstance(config.get("lora_alpha"), (int, float)):
        raise AdapterError(f"{path}: `lora_alpha` must be a number, found {config.get('lora_alpha')!r}")
    return config


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
