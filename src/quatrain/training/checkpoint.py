"""A checkpoint: all that decides how training goes on, in files that hold no code.

::

    step-000200/
      adapter_config.json, adapter_model.safetensors   the adapter, in PEFT's format
      optimizer.safetensors                            moments, as they are stored
      state.json                                       step, place in the data, random state

It is written aside and renamed when it is complete, so a folder with its final name is a whole checkpoint.
"""

import base64
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from quatrain.adapters import load_adapter, save_adapter
from quatrain.errors import CheckpointError, QuatrainError
from quatrain.runlog import RunFolder
from quatrain.training.build import Setup
from quatrain.training.fingerprint import base_fingerprint

_OPTIMIZER, _STATE = "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0


def save_checkpoint(folder: RunFolder, setup: Setup, progress: Progress, *, keep: int) -> Path:
    """Write the checkpoint of `progress.step`, then remove the oldest beyond `keep`. Returns its folder.

    Raises:
        CheckpointError: it can't be written; older checkpoints are untouched then.
    """
    final = folder.checkpoint(progress.step)
    aside = final.with_name(f".{final.name}.writing")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_adapter(setup.model, aside, base_model_name_or_path=setup.config.model)
        save_file(setup.optimizer.state_tensors(), aside / _OPTIMIZER)
        (aside / _STATE).write_text(json.dumps(_state(setup, progress), indent=1), encoding="utf-8")
        for path in aside.iterdir():
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _sync(final.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {final} can't be written ({error}); is the disk full?") from error
    for step in folder.checkpoint_steps()[:-keep]:
        shutil.rmtree(folder.checkpoint(step))
    return final


def load_checkpoint(folder: RunFolder, setup: Setup) -> Progress:
    """Bring `setup` to the newest checkpoint of `folder`, so that training goes on as if it had never stopped.

    Raises:
        CheckpointError: there is none, or it is damaged or belongs to other data.
    """
    steps = folder.checkpoint_steps()
    if not steps:
        raise CheckpointError(f"{folder.path} holds no checkpoint to resume from; start again with --overwrite")
    path = folder.checkpoint(steps[-1])
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        _check_base(state["base"], setup)
        tensors = load_file(path / _OPTIMIZER)
        load_adapter(setup.model, path, trainable=True)
        setup.optimizer.load_state_tensors(tensors)
        setup.loader.load_state_dict(state["data"])
        _restore_random(state["random"])
        return Progress(step=state["step"], tokens=state["tokens"])
    except QuatrainError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). Remove that folder to resume from the checkpoint before it"
        ) from error


def _state(setup: Setup, progress: Progress) -> dict[str, Any]:
    return {
        "step": progress.step,
        "tokens": progress.tokens,
        "base": base_fingerprint(setup.model),
        "data": setup.loader.state_dict(),
        "random": _random_state(setup.device),
    }


def _check_base(fingerprint: str, setup: Setup) -> None:
    if fingerprint != base_fingerprint(setup.model):
        raise CheckpointError(
            f"the run was trained on another base than {setup.config.model or 'the model that was handed in'}: their "
            "weights differ. Resume on the base of the run's config"
        )


def _random_state(device: torch.device) -> dict[str, str]:
    """torch's generators, which dropout draws from; the data's order has a seed of its own."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[str(device)] = torch.cuda.get_rng_state(device)
    return {name: base64.b64encode(bytes(state.tolist())).decode() for name, state in states.items()}


def _restore_random(states: dict[str, str]) -> None:
    for name, text in states.items():
        state = torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
        if name == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, name)


def _sync(path: Path) -> None:
    """Hand a file or folder to the disk before the rename that declares it complete."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
