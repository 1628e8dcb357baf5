"""What to train on: the settings of one data set, checked when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from quatrain.data.checks import check_choices, check_text, check_whole, made
from quatrain.errors import ConfigError

FormatName = Literal[
    "auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "oasst_trees", "oasst_messages"
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One data set: where its rows are, how they read, and which of their tokens are learned.

    Raises:
        ConfigError: a value is outside of what its field allows.
    """

    path: str
    """A file (``.jsonl``, ``.json``, ``.csv``, each also with ``.gz``, or ``.parquet``), a folder of those, or the name
    of a data set on the Hugging Face hub, there also as ``name:split``."""

    format: FormatName = "auto"
    """How a row reads. ``auto`` decides by the columns of the first row."""

    split: str | None = None
    """Which part: of a hub data set (``train`` when None; ``train[:1000]`` works), or of a local folder the files whose
    name begins with it (all files when None)."""

    subset: str | None = None
    """The configuration of a hub data set that has several, such as ``main`` of ``openai/gsm8k``."""

    fields: Mapping[str, str] | None = None
    """Our column name → the file's, for columns with other names: ``{prompt: question, completion: answer}``. Columns
    that aren't named here are then ignored."""

    max_rows: int | None = None
    """Read only this many rows from the beginning; None reads all."""

    train_on: Literal["assistant", "all"] = "assistant"
    """``assistant`` takes the loss on the replies (or completions), ``all`` on every token."""

    chat: Literal["auto", "never"] = "auto"
    """Prompt and completion given as strings become a one-turn chat when the tokenizer has a chat template (``auto``),
    because that is how an instruct model is talked to later; ``never`` joins them as plain text."""

    on_long: Literal["truncate", "drop"] = "truncate"
    """A sample over ``max_length`` tokens is cut at its end, or left out. One that has no learned token left after the
    cut is left out in any case."""

    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that can't be read or rendered ends the run, named by file, line, byte and reason; or it is left out and
    counted."""

    max_bad_rows: int = 100
    """With ``on_bad_row: skip``: more bad rows than this end the run all the same."""

    paths: Literal["best", "all"] = "best"
    """Which conversations an OASST tree gives: ``best`` follows the best-ranked reply at every step (one conversation a
    tree, as QLoRA's Guanaco was trained), ``all`` takes every path from the root to a leaf."""

    @classmethod
    def of(cls, value: "DataConfig | str | Path | Mapping[str, Any]", name: str = "data") -> "DataConfig":
        """A config from a path, a mapping of settings, or a config. `name` is what an error calls it."""
        return made(cls, {"path": value} if isinstance(value, str | Path) else value, name)

    def __post_init__(self) -> None:
        if isinstance(self.path, Path):
            object.__setattr__(self, "path", str(self.path))
        if not isinstance(self.path, str) or not self.path.strip():
            raise ConfigError(f"`path` must name a file, a folder or a hub data set, got {self.path!r}.")
        check_choices(self, _CHOICES)
        check_whole(self, "max_rows", at_least=1, optional=True)
        check_whole(self, "max_bad_rows", at_least=0)
        for name in ("split", "subset"):
            check_text(self, name)
        if self.fields is not None:
            _check_fields(self.fields)


COLUMNS = (
    *("messages", "conversations", "prompt", "completion", "text"),
    *("instruction", "input", "output", "system", "history"),
)
"""The columns that a field map can fill."""

_CHOICES = {
    "format": get_args(FormatName),
    "train_on": ("assistant", "all"),
    "chat": ("auto", "never"),
    "on_long": ("truncate", "drop"),
    "on_bad_row": ("stop", "skip"),
    "paths": ("best", "all"),
}


def _check_fields(fields: Mapping[str, str]) -> None:
    if not isinstance(fields, Mapping) or not fields:
        raise ConfigError(f"`fields` must map our columns to the file's, e.g. {{prompt: question}}, got {fields!r}.")
    for ours, theirs in fields.items():
        if ours not in COLUMNS:
            raise ConfigError(f"`fields` names {ours!r}, which is no column of ours; they are {', '.join(COLUMNS)}.")
        if not isinstance(theirs, str) or not theirs:
            raise ConfigError(f"`fields` must give {ours!r} the name of a column in the file, got {theirs!r}.")
