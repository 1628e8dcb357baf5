"""Models of others: safetensors, their index and configuration."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from quatrain import load_model
from quatrain.errors import ModelError
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place

INDEX = "model.safetensors.index.json"


def loading(folder: Path) -> Call:
    return lambda: load_model(folder, device="cpu", compute_dtype="float32")


def _index(at: Place, edit: Callable[[Any], Any]) -> Call:
    folder = at.model()
    at.edit_json(folder / INDEX, edit)
    return loading(folder)


def _first_shard_elsewhere(index: dict[str, Any], name: str) -> None:
    files = index["weight_map"]
    index["weight_map"] = {tensor: name if file == min(files.values()) else file for tensor, file in files.items()}


for words, name in {
    "an index that names a file in the folder above": "../model.safetensors",
    "an index that names a file by its absolute path": "/etc/passwd",
    "an index that names a file with a drive's backslashes": "..\\model.safetensors",
    "an index that names the folder itself": ".",
    "an index that names a file by an empty name": "",
}.items():
    edit = partial(_first_shard_elsewhere, name=name)
    fault(words, ModelError, "its files must lie in its own folder")(partial(_index, edit=edit))


@fault("a path where nothing is", ModelError, "A local model must exist")
def _(at: Place) -> Call:
    return at.train(model=at.path / "nothing")


@recovers("a file of the cache of the hub, which is a link into its blobs", "read as any other file")
def _(at: Place) -> Call:
    snapshot = at.model("cache/models--org--name/snapshots/0123")
    blobs = at.path / "cache/models--org--name/blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(f"../../blobs/{number}")
    return loading(snapshot)
