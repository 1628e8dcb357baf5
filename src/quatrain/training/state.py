"""`state.json` of a checkpoint: how far the run is, where in the data, and the state of torch's random generators."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.training.build import Setup
from quatrain.training.fingerprint import base_fingerprint


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class State:
    """The file's content, decoded."""

    progress: Progress
    base: str
    """Fingerprint of the base that the run is on."""
    data: dict[str, Any]
    """The loader's position."""
    random: dict[str, Tensor]
    """State of torch's generators by device, which dropout draws from; the data's order has a seed of its own."""


def state_of(setup: Setup, progress: Progress) -> dict[str, Any]:
    """What the file is to hold, ready for JSON."""
    return {
        "step": progress.step,
        "tokens": progress.tokens,
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
    content = json.loads(path.read_text(encoding="utf-8"))
    shape = {"step": int, "tokens": int, "base": str, "data": dict, "random": dict}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} isn't a table")
    for name, kind in shape.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{path.name} has no {name!r} of type {kind.__name__}")
    if not all(isinstance(text, str) for text in content["random"].values()):
        raise ValueError(f"{path.name}: random states are strings")
    return State(
        progress=Progress(step=content["step"], tokens=content["tokens"]),
        base=content["base"],
        data=content["data"],
        random={
            name: torch.tensor(list(base64.b64decode(text, validate=True)), dtype=torch.uint8)
            for name, text in content["random"].items()
        },
    )


def restore_random(states: dict[str, Tensor]) -> None:
    """Set torch's generators to what `state_of` has seen."""
    for name, state in states.items():
        if name == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, name)


def _random_state(device: torch.device) -> dict[str, str]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[str(device)] = torch.cuda.get_rng_state(device)
    return {name: base64.b64encode(bytes(state.tolist())).decode() for name, state in states.items()}
