"""Reading a folder of safetensors, one tensor at a time.

Only the headers are read at first: they give every tensor's shape, type and file, so that the whole load can be
planned and checked before the first weight moves. A tensor is then a view into the memory-mapped file and costs
nothing until it is touched; one shard is open at any time, and closing it gives its pages back. That is why host
memory peaks at one shard. (`torch.load` would hold a whole shard in anonymous memory, and unpickling runs code.)

The format: https://github.com/huggingface/safetensors#format; the index is Hugging Face's `weight_map`.
"""

import json
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from quatrain.errors import ModelError
from quatrain.models.host_memory import release_freed_pages
from quatrain.models.naming import NamePlan, Stored, plan_names
from quatrain.models.sources import checked_file

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class SafetensorsFolder:
    """The tensors of a folder with `model.safetensors`, or with shards and their index.

    Raises:
        ModelError: No safetensors here, an index that points elsewhere, or a file that isn't whole.
    """

    def __init__(self, folder: Path):
        self._paths = [checked_file(folder, name) for name in _shard_names(folder)]
        self._shard, self._handle = -1, None
        self.tensors: dict[str, Stored] = {}
        for shard, path in enumerate(self._paths):
            for name, stored in _read_header(path, shard).items():
                if name in self.tensors:
                    other = self._paths[self.tensors[name].shard].name
                    raise ModelError(f"A tensor must be in one shard only; {name} is in {other} and in {path.name}.")
                self.tensors[name] = stored
        missing = sorted(set(_weight_map(folder)) - set(self.tensors))
        if missing:
            raise ModelError(
                f"The shards must hold what {INDEX} lists; they lack {missing[:5]} ({len(missing)} in all)."
            )

    def read(self, name: str) -> torch.Tensor:
        """The tensor, on the CPU, as a view into the mapped file: clone it if it has to outlive this folder's shard."""
        shard = self.tensors[name].shard
        if shard != self._shard or self._handle is None:
            self.close()
            self._handle = safe_open(self._paths[shard], framework="pt", device="cpu")
            self._shard = shard
        return self._handle.get_tensor(name)

    def plan_names(self, model: PreTrainedModel, stored: Iterable[str]) -> NamePlan:
        """Finds a parameter of the skeleton for each stored name, as transformers would."""
        return plan_names(model, stored)

    def close(self) -> None:
        """Unmaps the open shard (its pages go once the last view of them is gone) and tidies up what it left behind."""
        self._handle = None
        release_freed_pages()


def _shard_names(folder: Path) -> list[str]:
    if (folder / INDEX).exists():
        return sorted(set(_weight_map(folder).values()))
    if (folder / SINGLE).exists():
        return [SINGLE]
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise ModelError(
            f"Weights must be safetensors, because unpickling {pickles[0]} can run any code. "
            "Where you trust it, convert it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)."
        )
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    hint = f" There is {ggufs[0]}: pass the path of that file." if ggufs else ""
    raise ModelError(f"A model's folder must hold {SINGLE} or {INDEX}; {folder} has neither.{hint}")


def _weight_map(folder: Path) -> dict[str, str]:
    if not (folder / INDEX).exists():
        return {}
    try:
        weight_map = json.loads(checked_file(folder, INDEX).read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / INDEX} must be JSON with a `weight_map`: {error}. Download it again.") from error
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(
            f"The `weight_map` of {folder / INDEX} must map tensor names to file names. Download it again."
        )
    return weight_map


def _read_header(path: Path, shard: int) -> dict[str, Stored]:
    with _named_errors(path), safe_open(path, framework="pt", device="cpu") as handle:
        return {name: _stored(handle.get_slice(name), shard) for name in handle.keys()}  # noqa: SIM118


def _stored(view, shard: int) -> Stored:
    shape = tuple(view.get_shape())
    bits = _BITS.get(view.get_dtype(), 8)
    return Stored(shape=shape, nbytes=torch.Size(shape).numel() * bits // 8, shard=shard)


_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
"""Widths of safetensors' types that aren't one byte; only the progress display needs them."""


@contextmanager
def _named_errors(path: Path):
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} must be a whole safetensors file: {error}. Download it again.") from error
