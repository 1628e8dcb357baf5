"""Checkpoints and resuming: damaged, foreign, or no longer fitting the config."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from quatrain.errors import CheckpointError
from quatrain.runlog import Noted, RunFolder, read_events
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place


def resuming(at: Place, run: Path, **settings: object) -> Call:
    return at.train("--resume", **{"output_dir": run, "max_steps": 3, "save_steps": 1, **settings})


def _spoiled(at: Place, spoil: Callable[[Path], Any]) -> Call:
    """Both checkpoints of a run are spoiled."""
    run = at.run()
    for checkpoint in sorted((run / "checkpoints").iterdir()):
        spoil(checkpoint)
    return resuming(at, run)


def _resealed(checkpoint: Path, change: Callable[[Any], Any]) -> None:
    """The state is changed and sealed again, as by another program."""
    from quatrain.files import Files
    from quatrain.training.seal import seal

    state = json.loads((checkpoint / "state.json").read_text())
    change(state)
    (checkpoint / "state.json").write_text(json.dumps(state))
    (checkpoint / "manifest.json").unlink()
    seal(checkpoint, Files())


SPOILS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "checkpoints without a manifest": (lambda c: (c / "manifest.json").unlink(), "no manifest.json"),
    "checkpoints whose optimizer state was cut": (
        lambda c: (c / "optimizer.safetensors").write_bytes(b"cut"),
        "optimizer.safetensors has 3 bytes instead of",
    ),
    "checkpoints whose adapter is a link": (
        lambda c: (
            (c / "adapter_model.safetensors").unlink(),
            (c / "adapter_model.safetensors").symlink_to("/dev/zero"),
        ),
        "adapter_model.safetensors isn't a file",
    ),
    "a manifest that names a file in the folder above": (
        lambda c: (c / "manifest.json").write_text('{"version": 1, "files": {"../config.yaml": {"size": 1}}}'),
        "isn't the name of a file beside it",
    ),
    "a state of another step": (lambda c: _resealed(c, lambda s: s.update(step=7)), "state.json is of step 7"),
    "a state with a negative step": (lambda c: _resealed(c, lambda s: s.update(step=-1)), "must be a whole number"),
    "a state without random numbers": (lambda c: _resealed(c, lambda s: s.pop("random")), "no 'random' of type dict"),
    "a state of a step's middle without its gradient": (
        lambda c: _resealed(c, lambda s: s.update(losses=[1.0])),
        "gradients.safetensors",
    ),
}
for words, (spoil, says) in SPOILS.items():
    fault(words, CheckpointError, says, leaves=("run",))(partial(_spoiled, spoil=spoil))

CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another rank": ({"lora__r": 4}, "`lora.r`: it was 2 and is 4"),
    "another quantization": ({"quantization": "fp4"}, "`quantization`: it was 'nf4' and is 'fp4'"),
    "another length of samples": ({"max_length": 32}, "`max_length`: it was 64 and is 32"),
    "another seed and accumulation": (
        {"seed": 1, "gradient_accumulation_steps": 2},
        "`gradient_accumulation_steps`: it was 4 and is 2; `seed`",
    ),
}
for words, (settings, says) in CHANGES.items():
    fault(f"a run resumed with {words}", CheckpointError, says, leaves=("run",))(
        partial(lambda at, settings: resuming(at, at.run(), **settings), settings=settings)
    )


@fault("a run resumed on other rows", CheckpointError, "the data changed", leaves=("run",))
def _(at: Place) -> Call:
    return resuming(at, at.run(), data=at.rows('{"prompt": "1 + 1?", "completion": "2"}\n'))


@fault("a run resumed on a base with other weights", CheckpointError, "another base", leaves=("run",))
def _(at: Place) -> Call:
    base = at.model()
    for shard in base.glob("*.safetensors"):
        content = bytearray(shard.read_bytes())
        content[-2] ^= 1
        shard.write_bytes(content)
    return resuming(at, at.run(), model=base)


@fault("resuming where no run is", CheckpointError, "holds no run to resume")
def _(at: Place) -> Call:
    return resuming(at, at.path / "nothing")


@fault("a new run in the folder of another", CheckpointError, "already holds a run", leaves=("run",))
def _(at: Place) -> Call:
    return at.train(output_dir=at.run())


@recovers("a newest checkpoint that is damaged", "the one before it is used, and the log says so")
def _(at: Place) -> Call:
    run = at.run()
    (run / "checkpoints/step-000002/state.json").unlink()
    go = resuming(at, run)

    def call() -> None:
        go()
        said = [e.message for e in read_events(RunFolder(run).events) if isinstance(e, Noted)]
        assert any("step-000002 is damaged" in words and "Resumed after step 1" in words for words in said)

    return call
