"""The adapter that a run was for, put where its owner will look for it.

As a checkpoint (`checkpoint.py`): written aside, sealed, synced, and only then given its name, so that at every moment
the folder holds the adapter of before, or none, or the new one, whole. Before that it is read back as anybody would
read it, and compared with the model that was trained and measured: success is said of what lies on the disk.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError

from quatrain.adapters import read_adapter, save_adapter
from quatrain.adapters.loading import stored_adapter
from quatrain.adapters.peft_format import WEIGHTS
from quatrain.adapters.peft_tensors import to_tensors
from quatrain.adapters.starts.start import STARTS
from quatrain.adapters.stored import StoredAdapter
from quatrain.errors import CheckpointError
from quatrain.files import Files, folder_aside
from quatrain.runlog import RunFolder
from quatrain.training.build import Setup
from quatrain.training.card import facts_of
from quatrain.training.seal import flaw, seal


def hand_over(folder: RunFolder, setup: Setup, *, files: Files | None = None) -> Path:
    """Write the adapter of `setup.model` to `folder.adapter`, in place of one that is there. Returns its folder.

    Args:
        files: what works on the disk; another one only in tests.

    Raises:
        CheckpointError: it can't be written, or isn't on the disk what the model is.
        AdapterError: what was written can't be used, because training has diverged.
    """
    files = files or Files()
    final = folder.adapter
    leaving = final.with_name(f".{final.name}.removing")
    trained = stored_adapter(setup.model, setup.config.model, setup.provenance)
    try:
        if leaving.exists():
            files.remove(leaving)
        with folder_aside(final, files) as aside:
            _write(aside, folder, setup, files)
            wrong = difference(read_adapter(aside), trained)
            if wrong is None:
                _put_in_place(aside, final, leaving, files)
                wrong = flaw(final, (WEIGHTS,))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the adapter can't be written to {final} ({error}). The last checkpoint holds it: free space on that "
            "disk, or make the folder writable, and resume the run"
        ) from error
    if wrong is not None:
        raise CheckpointError(
            f"the adapter in {final} isn't the one that was trained: {wrong}. The last checkpoint holds it: look after "
            "the disk, and resume the run"
        )
    return final


def difference(stored: StoredAdapter, trained: StoredAdapter) -> str | None:
    """In what an adapter that was read differs from one in memory, in a few words; None if it computes the same."""
    there, ours = to_tensors(stored), to_tensors(trained)
    if there.keys() != ours.keys():
        return f"it lacks or adds {sorted(there.keys() ^ ours.keys())[0]}"
    if other := [name for name, tensor in ours.items() if not torch.equal(there[name], tensor)]:
        return f"{other[0]} has other values"
    if stored.starts != trained.starts:
        return f"{STARTS} has other values"
    scales = [name for name, layer in trained.layers.items() if stored.layers[name].scaling != layer.scaling]
    return f"{scales[0]} has another scale" if scales else None


def _write(aside: Path, folder: RunFolder, setup: Setup, files: Files) -> None:
    def adapter() -> None:
        save_adapter(
            setup.model,
            aside,
            base_model_name_or_path=setup.config.model,
            provenance=setup.provenance,
            facts=facts_of(setup, folder),
        )
        if setup.config.new_tokens:
            setup.tokenizer.save_pretrained(aside)

    files.write(adapter, aside / WEIGHTS)
    seal(aside, files)


def _put_in_place(aside: Path, final: Path, leaving: Path, files: Files) -> None:
    """No system call replaces one folder by another; for a moment there is none, and who is killed then resumes."""
    if final.exists():
        files.rename(final, leaving)
    try:
        files.rename(aside, final)
    except OSError:
        if leaving.exists():
            files.rename(leaving, final)
        raise
    files.sync(final.parent)
    if leaving.exists():
        files.remove(leaving)
