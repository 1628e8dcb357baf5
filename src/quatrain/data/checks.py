"""What config classes share: being made from plain values, and refusing what isn't among a field's choices.

The classes are plain dataclasses, which check nothing by themselves; pydantic checks those that come from a file, but
is too slow an import for ``import quatrain``.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from quatrain.errors import ConfigError


def check_choices(config: Any, choices: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises ConfigError where a field of `config` isn't one of its `choices` (field name → allowed values)."""
    for name, allowed in choices.items():
        if (value := getattr(config, name)) not in allowed:
            raise ConfigError(f"`{name}` must be one of {', '.join(map(str, allowed))}, got {value!r}.")


def made(owner: type, value: Any, name: str) -> Any:
    """`value` if it is an `owner` (a config class), or one made from it if it is a mapping of its settings.

    Raises:
        ConfigError: it is neither, or has an unknown setting, or lacks one; `name` tells where.
    """
    if isinstance(value, owner):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"`{name}` must be a {owner.__name__} or a mapping of its settings, got {value!r}.")
    known = {field.name: field for field in fields(owner)}
    for key in value:
        if key not in known:
            raise ConfigError(f"`{name}` has no setting {key!r}; known are {', '.join(known)}.")
    for key, field in known.items():
        if key not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"`{name}` must give `{key}`, got {dict(value)!r}.")
    return owner(**value)
