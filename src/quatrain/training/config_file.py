"""A run's config as YAML: read with overrides, checked with names that help, and written back.

pydantic checks types, makes numbers of texts and finds unknown keys, on the plain dataclasses; this file turns its
findings into one sentence each, with the nearest known key.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import yaml

from quatrain.data import DataConfig
from quatrain.errors import CheckpointError, ConfigError
from quatrain.files import file_aside
from quatrain.training.config import SWITCHES, RunConfig
from quatrain.untrusted import BoundedLoader, parse_yaml, read_text

_LARGEST_CONFIG = 1 << 20
_MOST_SHOWN = 100


def read_config(
    path: str | Path | None, overrides: Iterable[str] = (), *, defaults: Mapping[str, Any] | None = None
) -> RunConfig:
    """The config in a YAML file with ``key=value`` overrides applied; `lora.r=8` reaches into `lora`.

    Args:
        defaults: settings for what neither the file nor an override gives.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a value of the wrong type or out of range.
    """
    values = dict(defaults or {}) | (_read_yaml(Path(path)) if path is not None else {})
    for override in overrides:
        _apply(values, override)
    return config_from_dict(values)


def config_from_dict(values: Mapping[str, Any]) -> RunConfig:
    """A checked config from nested plain values. Raises ConfigError as :func:`read_config` does."""
    switches = {name: _switched(values[name], *words) for name, words in SWITCHES.items() if name in values}
    return _checked(RunConfig, {**values, **switches})


def _checked(owner: type, values: Mapping[str, Any], place: tuple[str, ...] = ()) -> Any:
    """An `owner` (a config class) from plain values, those of its inner configs first; `place` is where it stands.

    Inner configs are made before pydantic looks at the outer one, because a field that also takes a path or a mapping
    would let pydantic be content with the mapping, unchecked.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    values = dict(values)
    for name, inner in _inner_configs(owner).items():
        given = values.get(name)
        if inner is DataConfig and isinstance(given, str | Path):
            given = {"path": str(given)}
        if isinstance(given, Mapping):
            values[name] = _checked(inner, given, (*place, name))
    with_config(ConfigDict(extra="forbid"))(owner)
    try:
        return TypeAdapter(owner).validate_python(values)
    except ValidationError as error:
        findings = {finding["loc"][:1]: finding for finding in reversed(error.errors())}  # a union's first says enough
        raise ConfigError("; ".join(_sentence(f, owner, place) for f in reversed(findings.values()))) from error


def write_config(config: RunConfig, path: Path) -> None:
    """Every setting, defaults included, so that the run can be repeated with a later version's defaults.

    Written aside and renamed: without its config, a run can't be resumed.

    Raises:
        CheckpointError: the disk can't.
    """
    text = yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_aside(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be written ({error}); free space on that disk, or choose another"
        ) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no config file at {path}; `quatrain train --help` shows how to write one")
    try:
        values = parse_yaml(read_text(path, most_bytes=_LARGEST_CONFIG), _TextLoader)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, found {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set ``a.b=text`` in nested values; the text is read as in the file, so lists, mappings and null work."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"an override looks like key=value, found {override!r}")
    *parents, leaf = key.split(".")
    place = values
    for parent in parents:
        inner = place.get(parent)
        if isinstance(inner, str) and parent in ("data", "eval_data"):
            inner = {"path": inner}
        place[parent] = inner if isinstance(inner, dict) else {}
        place = place[parent]
    try:
        place[leaf] = parse_yaml(text, _TextLoader)
    except ValueError as error:
        raise ConfigError(f"the value of {override!r} can't be read: {error}") from error


class _TextLoader(BoundedLoader):
    """YAML in which every plain value is text, but for null, which may also be written none.

    What a text means is for the type of its setting to say: YAML 1.1 itself takes ``2e-4`` for text, ``revision: 1e10``
    and ``output_dir: 2024`` for numbers, and ``gradient_checkpointing: on`` for true.
    """

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}


_TextLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|none|)$", re.IGNORECASE), None)
_TextLoader.add_constructor("tag:yaml.org,2002:null", lambda loader, node: None)


def _switched(value: Any, off: str, on: str) -> Any:
    """The word for a YAML boolean, which may be the word itself ("on"); anything else unchanged."""
    text = str(value).lower()
    if text in ("true", "yes", "on"):
        return on
    return off if text in ("false", "no", "off") else value


def _sentence(finding: Any, owner: type, place: tuple[str, ...]) -> str:
    known = _names(owner)
    name = finding["loc"][0] if finding["loc"] else ""
    key = ".".join((*place, str(name)))
    if finding["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        inside = [(*place, field, name) for field, inner in _inner_configs(owner).items() if name in _names(inner)]
        near = [".".join(inside[0])] if inside else difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
        return f"there is no setting `{key}`; {hint}"
    if finding["type"] == "missing":
        return f"`{key}` is required: give it in the file or as {key}=…"
    message = finding["msg"].removeprefix("Value error, ")
    if not name:
        return f"`{'.'.join(place)}`: {message}" if place else message
    return f"`{key}`: {message}, found {_brief(finding['input'])}"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _names(owner: type) -> list[str]:
    return [field.name for field in fields(owner)]


def _inner_configs(owner: type) -> dict[str, type]:
    """Field → the config class that it holds."""
    hints = get_type_hints(owner).items()
    parts = [(name, part) for name, hint in hints for part in (hint, *get_args(hint))]
    return {name: part for name, part in parts if isinstance(part, type) and is_dataclass(part)}


def _plain(value: Any) -> Any:
    """Tuples as lists, so that safe YAML can write them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
