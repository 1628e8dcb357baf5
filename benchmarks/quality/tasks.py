"""The two texts of a study, each cut into rows to train on, to choose settings by, and to report on.

GSM8K (Cobbe et al. 2021) has one form of answer and 7,473 rows, so a run sees each row once: what is learned is the
task. OASST's conversations are what the paper trains Guanaco on: free text of many kinds, few of them here, seen
several times. They are cut by tree: two paths of a tree begin with the same messages, so one must not be trained on
when the other is reported.

Neither is part of this repository: GSM8K names a folder with `train.jsonl` and `test.jsonl`, OASST a file of message
trees, such as those of OpenAssistant/oasst1 on the hub.
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quatrain.data import DataConfig, MicroBatch, Question, Sample, Samples, prepare, read_questions
from quatrain.data.batch import packed_batch, padded_batch, rounded
from quatrain.errors import ConfigError
from quatrain.models import load_tokenizer

Task = Literal["gsm8k", "oasst"]
Split = Literal["train", "validation", "test"]
TASKS: tuple[Task, ...] = ("gsm8k", "oasst")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MAX_LENGTH = 512

_VALIDATION = 1 / 16
"""Of GSM8K's training rows; it has test rows of its own."""
_TREES = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}


def data_paths() -> dict[str, str]:
    """Where the environment says that the texts are.

    Raises:
        ConfigError: one of them isn't named.
    """
    missing = [name for name in ("GSM8K", "OASST") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"`{missing[0]}` must be set in the environment: GSM8K to a folder with train.jsonl and test.jsonl, OASST "
            "to a file of message trees (.jsonl). They aren't part of the repository"
        )
    return {"gsm8k": os.environ["GSM8K"], "oasst": os.environ["OASST"]}


def samples_of(task: Task, split: Split, path: str, model: str) -> Samples:
    """The rows of one part in their order, answers learned, as `model`'s tokenizer writes them."""
    if task == "gsm8k":
        if split == "test":
            return _gsm8k(path, "test", model)
        rows = _gsm8k(path, "train", model)
        cut = len(rows) - max(1, round(len(rows) * _VALIDATION))
        return _part(rows, 0, cut) if split == "train" else _part(rows, cut, len(rows))
    trees = sum(1 for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    first, end = (round(trees * share) for share in _TREES[split])
    rows = _oasst(path, end, model)
    return _part(rows, len(_oasst(path, first, model)) if first else 0, len(rows))


def questions_of(path: str, count: int, tokenizer: Any) -> list[Question]:
    """The first questions of GSM8K's test rows."""
    return read_questions(_gsm8k_rows(path, "test", count), tokenizer)


def training_batches(samples: Samples, *, steps: int, rows: int, seed: int, packed: bool) -> list[MicroBatch]:
    """A batch for each step: the same rows at the same step for everyone with this seed, packed or padded.

    Epochs are shuffled one by one; packed batches all have the same number of tokens.
    """
    random = np.random.default_rng(seed)
    epochs = -(-steps * rows // len(samples))
    order = np.concatenate([random.permutation(len(samples)) for _ in range(epochs)])[: steps * rows]
    return _laid_out([[samples[int(i)] for i in part] for part in order.reshape(steps, rows)], packed)


def evaluation_batches(samples: Samples, *, most: int, rows: int, packed: bool) -> list[MicroBatch]:
    """The first `most` samples in their order."""
    chosen = [samples[i] for i in range(min(most, len(samples)))]
    return _laid_out([chosen[i : i + rows] for i in range(0, len(chosen), rows)], packed)


def _laid_out(groups: Sequence[Sequence[Sample]], packed: bool) -> list[MicroBatch]:
    if not packed:
        return [padded_batch(group, 0, MAX_LENGTH) for group in groups]
    tokens = rounded(max(sum(map(len, group)) for group in groups), MAX_LENGTH * max(map(len, groups)))
    return [packed_batch(group, 0, tokens=tokens, longest=MAX_LENGTH) for group in groups]


@cache
def _gsm8k(folder: str, split: str, model: str) -> Samples:
    return prepare(_gsm8k_rows(folder, split), load_tokenizer(model), max_length=MAX_LENGTH).samples


@cache
def _oasst(path: str, trees: int, model: str) -> Samples:
    config = DataConfig(path=path, paths="all", max_rows=trees)
    return prepare(config, load_tokenizer(model), max_length=MAX_LENGTH).samples


def _gsm8k_rows(folder: str, split: str, most: int | None = None) -> DataConfig:
    path = Path(folder) / f"{split}.jsonl"
    return DataConfig(path=str(path), fields={"prompt": "question", "completion": "answer"}, max_rows=most)


def _part(samples: Samples, first: int, end: int) -> Samples:
    return Samples([samples[i] for i in range(first, end)])
