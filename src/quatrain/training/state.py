"""`state.json` of a checkpoint: how far the run is, where in the data, and the state of torch's random generators."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.training.build import Setup
from quatrain.training.fingerprint import base_fingerprint

# Ours has tens of kilobytes, most of them random state.
_LARGEST_STATE = 2**24
_GENERATOR = re.compile(r"cpu|cuda:\d{1,3}")


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Steps that are done."""
    tokens: int = 0
    """Tokens of these steps."""
    losses: tuple[float, ...] = ()
    """Of the micro-batches that are done of the next step, when the run was left within it; the sum over supervised
    tokens, in nats. The adapter's parameters then hold their gradient."""


@dataclass(frozen=True)
class State:
    """The file's content, decoded."""

    progress: Progress
    base: str
    """Fingerprint of the base that the run is on."""
    data: dict[str, Any]
    """The loader's position; within a step, at its beginning."""
    random: dict[str, Tensor]
    """State of torch's generators by device, which dropout draws from; the data's order has a seed of its own."""


def state_of(setup: Setup, progress: Progress) -> dict[str, Any]:
    """What the file is to hold, ready for JSON."""
    return {
        "step": progress.step,
        "tokens": progress.tokens,
        "losses": list(progress.losses),
        "base": base_fingerprint(setup.model),
        "data": setup.loader.state_dict(),
        "random": _random_state(setup.device),
    }


def read_state(path: Path) -> State:
    """The file's content, checked as far as its own shape goes, so that nothing of a setup changes before that.

    Raises:
        OSError: it can't be read.
        ValueError: it isn't such a file.
    """
    if path.stat().st_size > _LARGEST_STATE:
        raise ValueError(f"{path.name} has more than {_LARGEST_STATE} bytes")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} isn't a table")
    return State(
        progress=Progress(_whole(content, "step"), _whole(content, "tokens"), _losses(content)),
        base=_of_type(content, "base", str),
        data=_of_type(content, "data", dict),
        random={name: _generator_state(name, text) for name, text in _of_type(content, "random", dict).items()},
    )


def restore_random(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set torch's generators to what `state_of` has seen. That of a device that the run has left is of no use."""
    for name, state in states.items():
        if name == "cpu":
            torch.set_rng_state(state)
        elif name == str(device):
            torch.cuda.set_rng_state(state, name)


def _random_state(device: torch.device) -> dict[str, str]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[str(device)] = torch.cuda.get_rng_state(device)
    return {name: base64.b64encode(bytes(state.tolist())).decode() for name, state in states.items()}


def _generator_state(name: str, text: Any) -> Tensor:
    if not isinstance(text, str) or not _GENERATOR.fullmatch(name):
        raise ValueError(f"random: {name!r} isn't the state of a generator")
    state = torch.tensor(list(base64.b64decode(text, validate=True)), dtype=torch.uint8)
    if name == "cpu" and state.shape != torch.get_rng_state().shape:
        raise ValueError(f"random: the state of a generator on the CPU has {len(state)} bytes")
    return state


def _losses(content: dict[str, Any]) -> tuple[float, ...]:
    losses = _of_type(content, "losses", list)
    if not all(isinstance(loss, float) for loss in losses):
        raise ValueError("'losses' must be numbers")
    return tuple(losses)


def _whole(table: dict[str, Any], name: str) -> int:
    value = _of_type(table, name, int)
    if isinstance(value, bool) or value < 0:
        raise ValueError(f"{name!r} must be a whole number of at least 0, found {value!r}")
    return value


def _of_type(table: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(table.get(name), kind):
        raise ValueError(f"no {name!r} of type {kind.__name__}")
    return table[name]
