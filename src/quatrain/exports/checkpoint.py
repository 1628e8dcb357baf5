"""Writing merged weights as a Hugging Face checkpoint: shard by shard, each read back before the next is made.

Host memory holds one shard of the result at a time, and of the base no more than the system's page cache: its files are
mapped. Names and configuration are the base's own, so whatever loads the base loads the result.
"""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from quatrain.exports.merged_weights import MergedWeights
from quatrain.files import save_tensors
from quatrain.models.gguf_file import GgufFile
from quatrain.models.host_memory import release_freed_pages
from quatrain.models.identity import forget
from quatrain.models.safetensors_folder import INDEX


def write_checkpoint(
    weights: MergedWeights, folder: Path, *, max_shard_size: str, progress: Callable[[int, int], object]
) -> None:
    """Write weights, configuration, generation settings and tokenizer into an empty folder.

    Args:
        weights: rounded to a 16-bit type.
        max_shard_size: largest file, and about what host memory it takes.
        progress: told after each tensor.

    Raises:
        AdapterError: a merged weight isn't finite, or doesn't fit into float16.
        OutputError: a shard isn't on the disk as it was written.
        OSError, SafetensorError: the disk can't.
    """
    assert weights.dtype is not None
    source = {_written_name(weights, name): name for name in weights.needed}
    blank = {written: _blank(weights, name) for written, name in source.items()}
    split = split_torch_state_dict_into_shards(
        blank, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    done = 0
    for file, names in split.filename_to_tensors.items():
        shard = {}
        for name in names:
            shard[name] = _own(weights.read(source[name]))
            done += 1
            progress(done, len(source))
        save_tensors(shard, folder / file, {"format": "pt"})
        del shard
        release_freed_pages()
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights.close()
    write_companions(weights, folder, weights.dtype)


def write_companions(weights: MergedWeights, folder: Path, dtype: torch.dtype) -> None:
    """Everything of a checkpoint but its weights."""
    base = weights.base
    forget(base.skeleton)
    config: Any = deepcopy(base.skeleton.config)
    config.dtype = dtype
    config.architectures = [type(base.skeleton).__name__]
    config.save_pretrained(folder)
    generation = base.skeleton.generation_config
    stored = base.where.folder / "generation_config.json"
    if base.where.gguf_file is None and stored.is_file():
        shutil.copyfile(stored, folder / stored.name)
    elif generation is not None:
        generation.save_pretrained(folder)
    tokenizer = base.read_tokenizer()
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if base.trust_remote_code:
        for path in base.where.folder.glob("*.py"):
            shutil.copyfile(path, folder / path.name)


def _written_name(weights: MergedWeights, name: str) -> str:
    """A checkpoint's own names stay; GGUF's become the parameters'."""
    return weights.target(name) or name if isinstance(weights.base.weights, GgufFile) else name


def _blank(weights: MergedWeights, name: str) -> Tensor:
    """A tensor of the size that will be written, without content."""
    return torch.empty(weights.tensors[name].shape, dtype=weights.type_of(name), device="meta")


def _own(tensor: Tensor) -> Tensor:
    """On the CPU, in memory of its own: what is read may be a view of the base's mapped file."""
    is_view = tensor.device.type == "cpu" and tensor.untyped_storage().nbytes() != tensor.nbytes
    return tensor.cpu().clone() if is_view else tensor.cpu().contiguous()
