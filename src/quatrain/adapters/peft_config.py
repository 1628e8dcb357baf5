"""PEFT's `adapter_config.json`: written for our adapters, and read from anybody's.

PEFT adds fields with every release, and most of them change what the adapter computes. So reading works by an
allow-list: a field counts if it is understood here or is known to change nothing once the tensors are there; any other
that is set is refused by name, because loading without it would silently compute something else.

Source: ``LoraConfig``, ``get_pattern_key`` and ``LoraLayer.update_layer`` of PEFT 0.21.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quatrain.adapters.expressions import match
from quatrain.adapters.selection import Selection
from quatrain.adapters.stored import StoredAdapter
from quatrain.errors import AdapterError
from quatrain.untrusted import file_in, read_json

CONFIG = "adapter_config.json"

_UNDERSTOOD = {
    "peft_type", "r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "lora_dropout", "bias",
    "init_lora_weights", "base_model_name_or_path", "revision", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "use_dora", "modules_to_save",
    "trainable_token_indices",
}  # fmt: skip
# Notes for other programs, and settings of features that have a switch of their own.
_WITHOUT_EFFECT = {
    "task_type", "auto_mapping", "peft_version", "inference_mode", "runtime_config", "megatron_core",
    "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying",
}  # fmt: skip
_KNOWN = _UNDERSTOOD | _WITHOUT_EFFECT
_LARGEST_NUMBER = 3e38
# Ways to draw A and B that leave the base alone.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
# Ways that take part of the base's weight into A and B; PEFT takes it out of the base again at every loading.
_STARTS_FROM_THE_BASE = ("pissa", "olora", "corda", "lora_ga")


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """What an `adapter_config.json` says beyond the tensors."""

    r: float
    """Rank of layers that no pattern covers."""
    rank_pattern: Mapping[str, float]
    """Ranks by regular expression."""
    lora_alpha: float
    """Numerator of the scale, for layers that no pattern covers."""
    alpha_pattern: Mapping[str, float]
    """Numerators by regular expression."""
    lora_dropout: float
    """Dropout of the adapter's input while training."""
    use_rslora: bool
    """Whether the scale divides by √r."""
    selection: Selection
    """Which modules of the base PEFT adapts."""
    base: str | None
    """Name or path of the base."""
    revision: str | None
    """Of the base, on the hub."""
    init_lora_weights: bool | str
    """The start, where it has changed the base; else true."""
    use_dora: bool
    """Whether each layer has magnitudes as well."""
    modules_to_save: tuple[str, ...]
    """Endings of the names of modules that were trained whole."""
    token_rows: Mapping[str, tuple[int, ...]]
    """Trained rows by the ending of their table's name; "" stands for the input embedding."""

    def rows_of(self, name: str) -> tuple[int, ...]:
        """The trained rows of a table."""
        return next((rows for table, rows in self.token_rows.items() if name.endswith(table)), ())

    def alpha_of(self, name: str) -> float:
        """The numerator for a module: that of the first expression that covers its name, or a tail after a dot."""
        return _covering(self.alpha_pattern, name, self.lora_alpha)

    def rank_of(self, name: str) -> float:
        """The rank for a module, found in the same way."""
        return _covering(self.rank_pattern, name, self.r)


def _covering(patterns: Mapping[str, float], name: str, default: float) -> float:
    return next((value for key, value in patterns.items() if match(rf"(.*\.)?({key})$", name)), default)


def write_config(folder: Path, adapter: StoredAdapter) -> None:
    """Write the configuration with which PEFT puts exactly this adapter's layers into its base."""
    layers = adapter.layers
    first = next(iter(layers.values()))
    config = {
        **asdict(adapter.selection),
        "alpha_pattern": {
            _exactly(n): layer.lora_alpha for n, layer in layers.items() if layer.lora_alpha != first.lora_alpha
        },
        "base_model_name_or_path": adapter.base,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": adapter.init_lora_weights,
        "lora_alpha": first.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
        "modules_to_save": sorted(adapter.modules) or None,
        "peft_type": "LORA",
        "r": first.r,
        "rank_pattern": {_exactly(n): layer.r for n, layer in layers.items() if layer.r != first.r},
        "revision": adapter.revision,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": {name: list(rows.indices) for name, rows in adapter.token_rows.items()} or None,
        "use_dora": first.magnitude_O is not None,
        "use_rslora": first.use_rslora,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _exactly(name: str) -> str:
    """A key that covers this one module: PEFT reads keys as expressions, and would also match them as name endings."""
    return f"^{re.escape(name)}"


def read_config(folder: Path, *, as_trained: bool = False) -> StoredConfig:
    """Read and check an adapter's configuration.

    Args:
        as_trained: the base will be changed as the adapter's start has changed it, so any start will do.

    Raises:
        AdapterError: it is missing, damaged, or asks for what Quatrain doesn't compute.
    """
    path = folder / CONFIG
    try:
        config = read_json(file_in(folder, CONFIG))
    except FileNotFoundError as error:
        raise AdapterError(f"an adapter folder holds {CONFIG} and the tensors; {folder} has no {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} must be a JSON file: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise AdapterError(f"{path}: Quatrain loads adapters of `peft_type` LORA, found {found}")
    _check_features(path, config)
    if not as_trained:
        _check_start(path, config.get("init_lora_weights"))
    numbers = _numbers(
        path,
        {name: config.get(name) for name in ("r", "lora_alpha")} | {"lora_dropout": config.get("lora_dropout") or 0.0},
    )
    if not 0 <= numbers["lora_dropout"] < 1:
        raise AdapterError(f"{path}: `lora_dropout` must be in [0, 1), found {numbers['lora_dropout']}")
    return StoredConfig(
        **numbers,
        rank_pattern=_patterns(path, config, "rank_pattern"),
        alpha_pattern=_patterns(path, config, "alpha_pattern"),
        use_rslora=bool(config.get("use_rslora")),
        selection=_selection(path, config),
        base=_text(path, config, "base_model_name_or_path"),
        revision=_text(path, config, "revision"),
        init_lora_weights=_change_of_base(config.get("init_lora_weights")),
        use_dora=bool(config.get("use_dora")),
        modules_to_save=_listed(_names(path, config, "modules_to_save")),
        token_rows=_token_rows(path, config.get("trainable_token_indices")),
    )


def _check_features(path: Path, config: Mapping[str, Any]) -> None:
    foreign = [f"{field}={value}" for field, value in config.items() if value and field not in _KNOWN]
    if config.get("bias", "none") != "none":
        foreign.append(f"bias={config['bias']}")
    if config.get("modules_to_save") and config.get("ensure_weight_tying"):
        foreign.append("ensure_weight_tying=True")
    if foreign:
        raise AdapterError(f"{path}: the adapter uses what Quatrain doesn't compute: {', '.join(foreign)}")


def _check_start(path: Path, start: Any) -> None:
    if start in _HARMLESS_STARTS:
        return
    remedy = "Use an adapter that leaves the base as it is."
    if str(start).startswith(_STARTS_FROM_THE_BASE):
        remedy = (
            "Convert it to an ordinary adapter with PEFT: "
            "`model.save_pretrained(folder, path_initial_model_for_weight_conversion=...)`."
        )
    raise AdapterError(
        f"{path}: an adapter must fit the base as published; with init_lora_weights={start!r} "
        f"it only fits a base that this start has changed. {remedy}"
    )


def _change_of_base(start: Any) -> bool | str:
    return True if start in _HARMLESS_STARTS else str(start)


def _numbers(path: Path, values: Mapping[str, Any]) -> dict[str, float]:
    for name, value in values.items():
        # NaN fails the comparison too; what float32 can't hold would become infinite in the layer.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST_NUMBER:
            raise AdapterError(f"{path}: `{name}` must be a finite number, found {value!r}")
    return dict(values)


def _patterns(path: Path, config: Mapping[str, Any], field: str) -> dict[str, float]:
    patterns = config.get(field) or {}
    if not isinstance(patterns, dict):
        raise AdapterError(f"{path}: `{field}` must map names to numbers, found {patterns!r}")
    for pattern in patterns:
        _compiles(path, field, pattern)
    return _numbers(path, patterns)


def _compiles(path: Path, field: str, pattern: str) -> None:
    try:
        match(pattern, "")
    except AdapterError as error:
        raise AdapterError(f"{path}: `{field}`: {error}") from error


def _text(path: Path, config: Mapping[str, Any], field: str) -> str | None:
    value = config.get(field)
    if value is not None and not isinstance(value, str):
        raise AdapterError(f"{path}: `{field}` must be a text, found {value!r}")
    return value


def _selection(path: Path, config: Mapping[str, Any]) -> Selection:
    blocks = config.get("layers_to_transform")
    if not isinstance(blocks, int | None) and not _all_of(int, blocks):
        raise AdapterError(f"{path}: `layers_to_transform` must be block indices, found {blocks!r}")
    return Selection(
        target_modules=_names(path, config, "target_modules"),
        exclude_modules=_names(path, config, "exclude_modules"),
        layers_to_transform=tuple(blocks) if isinstance(blocks, list) else blocks,
        layers_pattern=_names(path, config, "layers_pattern"),
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
    )


def _names(path: Path, config: Mapping[str, Any], field: str) -> str | tuple[str, ...] | None:
    value = config.get(field)
    if isinstance(value, str):
        _compiles(path, field, value)
    elif value is not None:
        if not _all_of(str, value):
            raise AdapterError(f"{path}: `{field}` must be names or one expression, found {value!r}")
        value = tuple(value)
    return value


def _listed(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names or ()


def _token_rows(path: Path, value: Any) -> dict[str, tuple[int, ...]]:
    by_table = value if isinstance(value, dict) else {"": value or []}
    if not all(_all_of(int, rows) for rows in by_table.values()):
        raise AdapterError(f"{path}: `trainable_token_indices` must be numbers of rows, found {value!r}")
    return {table: tuple(rows) for table, rows in by_table.items()}


def _all_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
