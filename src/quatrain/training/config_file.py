"""A run's config as YAML: read with overrides, checked with names that help, and written back.

pydantic checks types and finds unknown keys, on the plain dataclasses; this file turns its findings into one sentence
each, with the nearest known key.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from quatrain.errors import ConfigError
from quatrain.training.config import RunConfig


def read_config(path: str | Path | None, overrides: Iterable[str] = ()) -> RunConfig:
    """The config in a YAML file with ``key=value`` overrides applied; `lora.r=8` reaches into `lora`.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a value of the wrong type or out of range.
    """
    values = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(values, override)
    return config_from_dict(values)


def config_from_dict(values: Mapping[str, Any]) -> RunConfig:
    """A checked config from nested plain values. Raises ConfigError as :func:`read_config` does."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    strict = with_config(ConfigDict(extra="forbid"))
    for owner in _dataclasses(RunConfig):
        strict(owner)
    try:
        return TypeAdapter(RunConfig).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(finding) for finding in error.errors())) from error


def write_config(config: RunConfig, path: Path) -> None:
    """Every setting, defaults included, so that the run can be repeated with a later version's defaults."""
    path.write_text(yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no config file at {path}; `quatrain train --help` shows how to write one")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, found {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set ``a.b=text`` in nested values; the text is read as YAML, so numbers, lists and null work."""
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
        place[leaf] = _number(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {override!r} can't be read: {error}") from error


def _number(value: Any) -> Any:
    """YAML 1.1 reads 2e-4 as text for want of a dot; a person means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _sentence(finding: Any) -> str:
    place = [str(part) for part in finding["loc"] if isinstance(part, str) and not part.endswith("Config")]
    key = ".".join(place)
    if finding["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known_keys(place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
        return f"there is no setting `{key}`; {hint}"
    if finding["type"] == "missing":
        return f"`{key}` is required: give it in the file or as {key}=…"
    message = finding["msg"].removeprefix("Value error, ")
    return f"`{key}`: {message}, found {finding['input']!r}" if key else message


def _known_keys(place: list[str]) -> list[str]:
    owner: type = RunConfig
    for part in place:
        kind = next(f.type for f in fields(owner) if f.name == part)
        owner = next(c for c in _dataclasses(RunConfig) if c.__name__ in str(kind))
    return [f.name for f in fields(owner)]


def _dataclasses(root: type) -> list[type]:
    """The dataclass and those that its fields hold."""
    from typing import get_args, get_type_hints

    found = [root]
    for hint in get_type_hints(root).values():
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and is_dataclass(part) and part not in found:
                found.extend(_dataclasses(part))
    return found


def _plain(value: Any) -> Any:
    """Tuples as lists, so that safe YAML can write them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
