"""One function for each target: it writes a subject into an empty folder, and reads back what it wrote."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from quatrain.errors import ModelError
from quatrain.exports.checkpoint import write_checkpoint
from quatrain.exports.four_bit import four_bit_placement, write_four_bit
from quatrain.exports.gguf import write_gguf, write_gguf_adapter
from quatrain.exports.merged_weights import Onto
from quatrain.exports.ollama import write_modelfile
from quatrain.exports.progress import Progress
from quatrain.exports.result import Written
from quatrain.exports.subject import Subject
from quatrain.models.opening import open_base
from quatrain.training.export_target import ExportTarget

GGUF_FILE, GGUF_ADAPTER = "model.gguf", "adapter.gguf"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What may be chosen about the files; each target looks at what concerns it."""

    onto: Onto
    dtype: torch.dtype
    gguf_type: str
    max_shard_size: str
    least_survival: float
    progress: Progress


def write_safetensors(subject: Subject, folder: Path, wishes: Wishes) -> Written:
    """A 16-bit checkpoint."""
    weights = subject.merged(wishes.onto, wishes.dtype)
    told = partial(wishes.progress, "merging")
    write_checkpoint(weights, folder, max_shard_size=wishes.max_shard_size, progress=told)
    # As a stranger would open it: configuration, names and shapes have to fit, whether or not it is measured.
    open_base(folder, quantization=None).read_tokenizer()
    return Written(kind=str(wishes.dtype).removeprefix("torch."))


def write_bnb_4bit(subject: Subject, folder: Path, wishes: Wishes) -> Written:
    """bitsandbytes' 4-bit checkpoint."""
    weights = subject.merged(wishes.onto)
    told = partial(wishes.progress, "quantizing")
    survival = write_four_bit(weights, folder, least=wishes.least_survival, progress=told)
    return Written(kind=four_bit_placement(weights.base.placement).quant_type or "", survival=survival)


def write_gguf_model(subject: Subject, folder: Path, wishes: Wishes) -> Written:
    """A GGUF file."""
    weights = subject.merged(wishes.onto)
    told = partial(wishes.progress, "merging")
    write_gguf(weights, folder / GGUF_FILE, wishes.gguf_type, name=subject.title, progress=told)
    return Written(kind=wishes.gguf_type)


def write_ollama(subject: Subject, folder: Path, wishes: Wishes) -> Written:
    """A GGUF file with a Modelfile, which is written first because it is soon known whether it can be."""
    tokenizer = subject.open(wishes.onto).read_tokenizer()
    if tokenizer is None:
        raise ModelError(f"a Modelfile says how a chat is written; {subject.target.base} has no tokenizer that does")
    write_modelfile(folder, GGUF_FILE, tokenizer)
    return write_gguf_model(subject, folder, wishes)


def write_lora_gguf(subject: Subject, folder: Path, wishes: Wishes) -> Written:
    """The adapter alone."""
    config = subject.open("dequantized").skeleton.config
    told = partial(wishes.progress, "writing")
    write_gguf_adapter(subject.adapter, config, folder / GGUF_ADAPTER, name=subject.title, progress=told)
    return Written(kind="f32")


WRITERS: dict[ExportTarget, Callable[[Subject, Path, Wishes], Written]] = {
    "safetensors": write_safetensors,
    "bnb-4bit": write_bnb_4bit,
    "gguf": write_gguf_model,
    "ollama": write_ollama,
    "lora-gguf": write_lora_gguf,
}
