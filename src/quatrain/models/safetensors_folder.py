"""Reading a folder of safetensors, one tensor at a time.

Only the headers are read at first: they give every tensor's shape, type, file and place, so that the whole load can be
planned and checked before the first weight moves. On the CPU a tensor is then a view into the memory-mapped file and
costs nothing until it is touched; one shard is open at any time, and closing it gives its pages back. That is why host
memory peaks at one shard. For a GPU the bytes are read in pieces, and no file is mapped. (`torch.load` would hold a
whole shard in anonymous memory, and unpickling runs code.)

The format: https://github.com/huggingface/safetensors#format; the index is Hugging Face's `weight_map`.
"""

import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from quatrain.errors import ModelError
from quatrain.models.cuda_lane import CudaLane
from quatrain.models.host_memory import release_freed_pages
from quatrain.models.naming import SAMPLE, NamePlan, Stored, plan_names
from quatrain.models.read_ahead import Extent, read_ahead
from quatrain.models.sources import checked_file
from quatrain.untrusted import read_json

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
        """All tensors by name."""
        self.extents: dict[str, Extent] = {}
        """Where each of them lies."""
        for shard, path in enumerate(self._paths):
            for name, extent in _read_header(path).items():
                if name in self.tensors:
                    other = self.extents[name].path.name
                    raise ModelError(f"A tensor must be in one shard only; {name} is in {other} and in {path.name}.")
                self.tensors[name] = Stored(shape=extent.shape, nbytes=extent.nbytes, shard=shard)
                self.extents[name] = extent
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

    def sample(self, name: str) -> bytes:
        """The first and last stored bytes of the tensor."""
        extent = self.extents[name]
        with open(extent.path, "rb") as file:
            file.seek(extent.offset)
            start = file.read(min(SAMPLE, extent.nbytes))
            file.seek(extent.offset + max(0, extent.nbytes - SAMPLE))
            return start + file.read(min(SAMPLE, extent.nbytes))

    def arriving(self, groups: list[list[str]], device: torch.device) -> Generator[dict[str, torch.Tensor], None, None]:
        """The tensors of each group in turn: on a GPU read ahead, each in its own memory; else as `read` gives them."""
        if device.type == "cuda":
            return read_ahead(groups, self.extents, CudaLane(device))
        return ({name: self.read(name) for name in names} for names in groups)

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
        weight_map = read_json(checked_file(folder, INDEX))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / INDEX} must be JSON with a `weight_map`: {error}. Download it again.") from error
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(
            f"The `weight_map` of {folder / INDEX} must map tensor names to file names. Download it again."
        )
    return weight_map


def _read_header(path: Path) -> dict[str, Extent]:
    """Where each tensor lies. The library has to accept the header first: shapes, sizes, no gap, no overlap."""
    with _named_errors(path):
        with safe_open(path, framework="pt", device="cpu"):
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    unknown = {entry["dtype"] for entry in header.values()} - set(_DTYPES)
    if unknown:
        raise ModelError(f"Tensors must be of a type that PyTorch has ({', '.join(_DTYPES)}); {path} has {unknown}.")
    return {name: _extent(path, 8 + length, entry) for name, entry in header.items()}


def _extent(path: Path, data: int, entry: dict[str, Any]) -> Extent:
    start, end = entry["data_offsets"]
    return Extent(path, data + start, end - start, tuple(entry["shape"]), _DTYPES[entry["dtype"]])


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' types."""


@contextmanager
def _named_errors(path: Path):
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} must be a whole safetensors file: {error}. Download it again.") from error
