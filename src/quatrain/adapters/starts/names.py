"""The names of starts, and what follows from a name alone."""

import difflib
import re
from typing import Any

from quatrain.errors import ConfigError

_NAMES = ("gaussian", "orthogonal", "eva", "pissa", "olora", "loftq")
_PISSA_STEPS = re.compile(r"pissa_niter_(\d+)")


def checked_name(name: Any) -> bool | str:
    """The name in the one form that everything else reads.

    Raises:
        ConfigError: there is no such start.
    """
    if name is True or str(name).lower() == "true":
        return True
    if isinstance(name, str) and (name in _NAMES or _PISSA_STEPS.fullmatch(name)):
        return name
    near = difflib.get_close_matches(str(name), _NAMES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are true, {', '.join(_NAMES)} and pissa_niter_N"
    raise ConfigError(f"`init_lora_weights` knows no {name!r}; {hint}")


def changes_base(name: bool | str) -> bool:
    """Whether this start takes part of the base's weights into the adapter."""
    return str(name).startswith(("pissa", "olora", "loftq"))


def subspace_steps(name: str) -> int | None:
    """The steps of the approximate decomposition that `pissa_niter_N` names; None for the exact one."""
    found = _PISSA_STEPS.fullmatch(name)
    return None if found is None else int(found[1])
