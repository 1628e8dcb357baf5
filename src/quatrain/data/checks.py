"""What config classes share: being made from plain values, and refusing what isn't among a field's choices.

The classes are plain dataclasses, which check nothing by themselves; pydantic checks those that come from a file, but
is too slow an import for ``import quatrain``.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from quatrain.errors import ConfigError


def check_choices(config: Any, choices: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises ConfigError where a field of `config` isn't one of its `choices` (field name → allowed values)."""
    for name, allowed in choices.items():
        if (value := getattr(config, name)) not in allowed:
            raise ConfigError(f"`{name}` must be one of {', '.join(map(str, allowed))}, got {value!r}.")


def check_whole(config: Any, name: str, *, at_least: int, optional: bool = False) -> None:
    """Raises ConfigError where a field isn't a whole number, or too small."""
    value = getattr(config, name)
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        left_out = ", or left out" if optional else ""
        raise ConfigError(f"`{name}` must be a whole number of at least {at_least}{left_out}, got {value!r}.")


def check_number(
    config: Any, name: str, *, at_least: float = 0.0, above: bool = False, below: float = math.inf
) -> None:
    """Raises ConfigError where a field isn't a number in [at_least, below), or not `above` the least one."""
    value = getattr(config, name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"`{name}` must be a finite number, got {value!r}.")
    if value < at_least or (above and value == at_least) or value >= below:
        least = f"above {at_least:g}" if above else f"at least {at_least:g}"
        most = f" and below {below:g}" if below < math.inf else ""
        raise ConfigError(f"`{name}` must be {least}{most}, got {value!r}.")


def check_truth(config: Any, *names: str) -> None:
    """Raises ConfigError where a field isn't True or False. The text "false" would be taken for true."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"`{name}` must be true or false, got {getattr(config, name)!r}.")


def check_text(config: Any, name: str) -> None:
    """Raises ConfigError where an optional field is something else than a text."""
    if (value := getattr(config, name)) is not None and not isinstance(value, str):
        raise ConfigError(f"`{name}` must be a text, or left out, got {value!r}.")


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
