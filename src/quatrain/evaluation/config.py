"""Settings of a task: questions with reference answers, and how an answer is scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from quatrain.data import DataConfig
from quatrain.data.checks import check_choices, check_truth, check_whole

Metric = Literal["exact_match", "json_match", "number_match"]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Rows whose last answer the model has to give by itself, greedily."""

    data: DataConfig | str | Path | Mapping[str, Any]
    """A file, a folder or a hub name, or a mapping with `path` and what `DataConfig` offers. Everything before a
    row's last assistant turn (or completion) is the question."""

    metric: Metric = "exact_match"
    """exact_match: equal texts, outer white space aside. json_match: both parse as JSON and the values are equal.
    number_match: the last number in both is equal (GSM8K)."""

    max_new_tokens: int = 256
    """Longest answer in tokens."""

    max_rows: int | None = None
    """Use the first rows only."""

    batch_size: int = 32
    """Questions that are answered at once."""

    before: bool = True
    """Also measure before training, so that the report can compare."""

    samples: int = 5
    """Answers that are kept in the log, word for word."""

    def __post_init__(self):
        object.__setattr__(self, "data", DataConfig.of(self.data))
        check_choices(self, {"metric": get_args(Metric)})
        for name, least in (("max_new_tokens", 1), ("max_rows", 1), ("batch_size", 1), ("samples", 0)):
            check_whole(self, name, at_least=least, optional=name == "max_rows")
        check_truth(self, "before")
