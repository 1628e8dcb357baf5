"""A checkpoint: all that decides how training goes on, in files that hold no code.

::

    step-000200/
      adapter_config.json, adapter_model.safetensors   the adapter, in PEFT's format
      start.safetensors                                what its start has taken out of the base, if it did
      optimizer.safetensors                            moments, as they are stored
      gradients.safetensors                            the gradient so far, if the run was left within a step
      state.json                                       step, place in the data, random state
      manifest.json                                    size and SHA-256 of the others: the seal

It is written aside (`.step-000200.writing`), synced, sealed, renamed, read back and compared; only then may older ones
go (`checkpoints_kept.py`). Whatever stops a save, at whatever point, the checkpoints from before it are still there,
and what is left of it isn't taken for one. Loading takes the newest checkpoint that is whole.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quatrain.adapters import adapter_layers, adapter_parameters
from quatrain.adapters.starts.sharing import starts_of
from quatrain.adapters.starts.start import STARTS
from quatrain.adapters.trained import save_trained
from quatrain.errors import CheckpointError
from quatrain.files import Files, folder_aside
from quatrain.runlog import RunFolder
from quatrain.training.build import Setup
from quatrain.training.fingerprint import base_fingerprint
from quatrain.training.seal import flaw, seal
from quatrain.training.state import Progress, State, read_state, restore_random, state_of

_WEIGHTS, _CONFIG, _CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
_OPTIMIZER, _GRADIENTS, _STATE = "optimizer.safetensors", "gradients.safetensors", "state.json"
REQUIRED = (_WEIGHTS, _CONFIG, _OPTIMIZER, _STATE)


@dataclass(frozen=True)
class Found:
    """A whole checkpoint, read but for its adapter."""

    path: Path
    state: State
    moments: dict[str, Tensor]
    """The optimizer's."""
    gradients: dict[str, Tensor]
    """Of a step that the run was left in; empty between two."""
    skipped: tuple[str, ...]
    """Newer checkpoints that are damaged, each with what is wrong, newest first."""

    def restore(self, setup: Setup) -> Progress:
        """Bring `setup`, which was built from this checkpoint's adapter, to where it was.

        Raises:
            CheckpointError: it belongs to another base or other data. Then an older one wouldn't fit either.
        """
        if self.state.base != base_fingerprint(setup.model):
            raise CheckpointError(
                f"the run was trained on another base than {setup.config.model or 'the model that was handed in'}: "
                "their weights differ. Resume on the base of the run's config"
            )
        setup.optimizer.load_state_tensors(self.moments)
        setup.loader.load_state_dict(self.state.data)
        self._restore_gradients(adapter_parameters(setup.model))
        restore_random(self.state.random, setup.device)
        return self.state.progress

    def _restore_gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        if any(name not in parameters or parameters[name].shape != g.shape for name, g in self.gradients.items()):
            raise CheckpointError(
                f"{self.path / _GRADIENTS} doesn't fit the adapter beside it; remove {self.path} to resume from an "
                "older checkpoint"
            )
        for name, gradient in self.gradients.items():
            parameters[name].grad = gradient.to(parameters[name].device)


def save_checkpoint(folder: RunFolder, setup: Setup, progress: Progress, *, files: Files | None = None) -> Path:
    """Write the checkpoint of `progress.step`, and read it back. Returns its folder.

    A folder that already has its name is replaced: a damaged one, that resuming has skipped.

    Args:
        files: what works on the disk; another one only in tests.

    Raises:
        CheckpointError: it can't be written, or isn't on the disk as it was written; other checkpoints are untouched.
    """
    files = files or Files()
    final = folder.checkpoint(progress.step)
    try:
        for remains in folder.checkpoints.glob(".step-*"):
            # Of a process that was killed. They only take room, so what can't be removed may stay.
            with suppress(OSError):
                files.remove(remains)
        with folder_aside(final, files) as aside:
            _write(aside, setup, progress, files)
            seal(aside, files)
            if final.exists():
                files.remove(final)
            files.rename(aside, final)
        files.sync(final.parent)
        wrong = flaw(final, REQUIRED)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {final} can't be written ({error}). Older checkpoints are untouched; free space on that disk, "
            "or make the folder writable"
        ) from error
    if wrong is not None:
        # Its sizes may be right, so that it would count as whole when old ones are removed.
        with suppress(OSError):
            files.remove(final)
        raise CheckpointError(
            f"checkpoint {final} isn't on the disk as it was written: {wrong}. Older checkpoints are untouched; look "
            "after the disk"
        )
    return final


def find_checkpoint(folder: RunFolder) -> Found:
    """The newest whole checkpoint of `folder`, from which training goes on as if it had never stopped.

    Raises:
        CheckpointError: there is none, or all are damaged.
    """
    steps = folder.checkpoint_steps()
    if not steps:
        raise CheckpointError(f"{folder.path} holds no checkpoint to resume from; start again with --overwrite")
    skipped: list[str] = []
    for step in reversed(steps):
        path = folder.checkpoint(step)
        wrong = flaw(path, REQUIRED)
        if wrong is None:
            try:
                return _read(path, step, tuple(skipped))
            except (OSError, ValueError, RecursionError, SafetensorError) as error:
                wrong = f"its state is unreadable ({error})"
        skipped.append(f"checkpoint {path} is damaged: {wrong}")
    raise CheckpointError(
        f"{folder.path} holds no checkpoint that is whole: {'; '.join(skipped)}. Put back a copy of one of them, or "
        "start again with --overwrite"
    )


def _write(aside: Path, setup: Setup, progress: Progress, files: Files) -> None:
    def adapter() -> None:
        save_trained(setup.model, aside, base=setup.config.model, provenance=setup.provenance)

    starts = [STARTS] if starts_of(adapter_layers(setup.model)) else []
    files.write(adapter, *(aside / name for name in (_WEIGHTS, _CONFIG, _CARD, *starts)))
    moments = setup.optimizer.state_tensors()
    files.write(lambda: save_file(moments, aside / _OPTIMIZER), aside / _OPTIMIZER)
    if progress.losses:
        gradients = _gradients(setup)
        files.write(lambda: save_file(gradients, aside / _GRADIENTS), aside / _GRADIENTS)
    state = json.dumps(state_of(setup, progress), indent=1)
    files.write(lambda: (aside / _STATE).write_text(state, encoding="utf-8"), aside / _STATE)


def _gradients(setup: Setup) -> dict[str, Tensor]:
    """By the parameter's name; copies, because our own blocks keep all of them in one buffer."""
    named = adapter_parameters(setup.model).items()
    return {name: p.grad.detach().cpu().clone() for name, p in named if p.grad is not None}


def _read(path: Path, step: int, skipped: tuple[str, ...]) -> Found:
    """
    Raises:
        OSError, ValueError, SafetensorError: its files aren't what they are to be.
    """
    state = read_state(path / _STATE)
    if state.progress.step != step:
        raise ValueError(f"{_STATE} is of step {state.progress.step}")
    gradients = load_file(path / _GRADIENTS) if state.progress.losses else {}
    return Found(path, state, load_file(path / _OPTIMIZER), gradients, skipped)
