"""What a person may name where a model is asked for: a run folder, an adapter folder, or a base."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quatrain.adapters import AdapterSet, load_adapter
from quatrain.adapters.peft_format import adapter_name
from quatrain.errors import AdapterError, ConfigError
from quatrain.models import load_model
from quatrain.models.tokenizers import has_tokenizer, load_tokenizer
from quatrain.runlog import RunFolder
from quatrain.training.config_file import read_config
from quatrain.untrusted import file_in, read_json


@dataclass(frozen=True)
class Target:
    """A base with at most one adapter."""

    base: str
    adapter: Path | None
    base_options: dict[str, Any]
    """Keyword arguments for `load_model` that the run was trained with."""
    needs_code: bool = False
    """Whether it was trained with Python code that ships with the base."""


def resolve(named: str) -> Target:
    """Find out what `named` is.

    Raises:
        ConfigError: the run's config doesn't name a base.
        AdapterError: an adapter folder doesn't name a base, or a run has no adapter yet.
    """
    folder = RunFolder(Path(named))
    if folder.config.is_file():
        return _from_run(folder)
    if (Path(named) / "adapter_config.json").is_file():
        return _from_adapter(Path(named))
    return Target(named, None, {})


def _from_run(folder: RunFolder) -> Target:
    config = read_config(folder.config)
    if config.model is None:
        raise ConfigError(f"{folder.path} was trained on a model handed over in Python: its config names no `model`")
    if not folder.adapter.is_dir():
        raise AdapterError(f"{folder.path} holds no adapter yet: its training hasn't ended; `quatrain train --resume`")
    options = {name: getattr(config, name) for name in _BASE_OPTIONS}
    return Target(config.model, folder.adapter, options, config.trust_remote_code)


_BASE_OPTIONS = (
    *("quantization", "double_quant", "block_size", "quantize_head", "quantize_embeddings", "keep_in_16bit"),
    *("compute_dtype", "device", "revision"),
)
"""Settings of a run that `load_model` has by the same names. Not `trust_remote_code`: the folder may be anybody's."""


def _from_adapter(folder: Path) -> Target:
    try:
        base = read_json(file_in(folder, "adapter_config.json"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{folder}/adapter_config.json doesn't name the adapter's base: {error}") from error
    if not isinstance(base, str):
        raise AdapterError(
            f"{folder}/adapter_config.json has no `base_model_name_or_path`; name the base and --adapter"
        )
    return Target(base, folder, {})


def open_model(named: str, *, adapter: Path | None = None, force: bool = False, **changes: Any) -> tuple[Any, Any]:
    """Load what `named` stands for, with `adapter` in place of its own if given. A change that is None is none.

    Args:
        force: put the adapter on the base although it was trained on one with other weights.
    """
    target = resolve(named)
    model, tokenizer = _load_base(named, target, changes)
    adapter = adapter or target.adapter
    if adapter is not None:
        load_adapter(model, adapter, force=force)
        tokenizer = _tokenizer_of([adapter], tokenizer)
    return model, tokenizer


def open_adapters(
    named: str, adapters: Mapping[str, Path], *, own: bool = True, force: bool = False, **changes: Any
) -> tuple[AdapterSet, Any]:
    """Load what `named` stands for, and adapters on it. The first of `adapters` is active, or its own.

    Args:
        adapters: folders by name.
        own: also load the adapter of the run or folder that was named.
        force: put adapters on the base although they were trained on one with other weights.
    """
    target = resolve(named)
    folders = dict(adapters)
    if own and target.adapter is not None:
        folders.setdefault(adapter_name(target.adapter), target.adapter)
    model, tokenizer = _load_base(named, target, changes)
    loaded = AdapterSet(model)
    for name, folder in folders.items():
        loaded.load_adapter(folder, name, force=force)
    loaded.set_adapter(next(iter(folders), None))
    return loaded, _tokenizer_of(folders.values(), tokenizer)


def _tokenizer_of(adapters: Iterable[Path], otherwise: Any) -> Any:
    """The tokenizer of the first adapter that has one of its own, as those with new tokens do."""
    return next((load_tokenizer(folder) for folder in adapters if has_tokenizer(folder)), otherwise)


def _load_base(named: str, target: Target, changes: Mapping[str, Any]) -> tuple[Any, Any]:
    if target.needs_code and not changes.get("trust_remote_code"):
        raise ConfigError(
            f"{named} was trained with code that ships with {target.base}; add --trust-remote-code if you have read it"
        )
    options = target.base_options | {name: value for name, value in changes.items() if value is not None}
    if options.get("quantization") == "none":
        options["quantization"] = None
    model, tokenizer = load_model(target.base, **options)
    if tokenizer is None:
        raise ConfigError(f"{target.base} holds no tokenizer; add its tokenizer.json")
    return model, tokenizer
