"""The names by which tasks are asked for.

    mmlu, gsm8k                 known data sets: from the hub, or from a copy, mmlu=val.json
    choices=ROWS                multiple choice by whole choices
    loss=ROWS                   loss and perplexity
    exact_match=ROWS, …         answers scored by a metric
    ROWS                        rows in the form of mmlu, gsm8k or choices, recognised by their columns
    lm_eval:NAME                a task of lm-evaluation-harness; the prefix may be left out of names that aren't ours

ROWS is whatever training reads: a file, a folder, or a hub name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from quatrain.data import BadRows, DataConfig, DataSummary
from quatrain.data.sources import read_rows
from quatrain.errors import ConfigError
from quatrain.evaluation.config import Metric, TaskConfig
from quatrain.evaluation.tasks.choice_rows import PART_COLUMNS, PROMPT_COLUMNS
from quatrain.evaluation.tasks.generation import Generation
from quatrain.evaluation.tasks.harness import Harness, harness_names, is_installed
from quatrain.evaluation.tasks.loss import Loss
from quatrain.evaluation.tasks.multiple_choice import MultipleChoice
from quatrain.evaluation.tasks.task import Task

_PREFIX = "lm_eval:"
_HUB: Mapping[str, dict[str, Any]] = {
    "mmlu": {"path": "cais/mmlu", "subset": "all", "split": "test"},
    "gsm8k": {"path": "openai/gsm8k", "subset": "main", "split": "test"},
}
"""Where known data sets come from when no copy is named."""
_GSM8K_COLUMNS = {"prompt": "question", "completion": "answer"}


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What may be said about all tasks that are asked for together."""

    data: DataConfig | None = None
    """Rows for names that come without any."""
    max_rows: int | None = None
    """The first rows of each task only."""
    max_length: int = 2048
    """For losses: longest row in tokens."""
    max_new_tokens: int = 256
    """For answers: the longest in tokens."""
    num_fewshot: int | None = None
    """For the harness: solved questions before each."""
    chat: bool = False
    """For the harness: ask through the chat template."""
    show: Callable[[DataSummary], object] = field(default=lambda summary: None, compare=False)
    """Told what rows of losses are."""


def read_tasks(names: str, options: TaskOptions | None = None) -> list[Task]:
    """Tasks by their names, separated by commas.

    Raises:
        ConfigError: there is no task of a name (the message tells the nearest), or it needs rows and has none.
        DataError: rows can't be read.
    """
    options = options or TaskOptions()
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:
        raise ConfigError(f"name at least one task, as in mmlu,gsm8k; got {names!r}")
    return [_read(name, options) for name in found]


def _read(text: str, options: TaskOptions) -> Task:
    name, equals, path = text.partition("=")
    if text.startswith(_PREFIX):
        return _harness(text.removeprefix(_PREFIX), options)
    if name in _KINDS:
        return _KINDS[name](name, _rows(name, path if equals else None, options), options)
    if Path(text).expanduser().exists():
        rows = DataConfig(path=text, max_rows=options.max_rows)
        kind = _recognised(rows)
        return _KINDS[kind](kind, rows, options)
    if not equals and is_installed() and text in harness_names():
        return _harness(text, options)
    raise ConfigError(_unknown(text, name))


def _rows(name: str, path: str | None, options: TaskOptions) -> DataConfig:
    """The rows that were named; else those that the options name; else the hub's."""
    if path is None and options.data is not None:
        return options.data if options.max_rows is None else replace(options.data, max_rows=options.max_rows)
    hub = _HUB.get(name)
    if path is None and hub is None:
        raise ConfigError(f"the task {name!r} needs rows: {name}=rows.jsonl, or --data")
    if path is None:
        return DataConfig(**hub or {}, max_rows=options.max_rows)
    on_hub = hub is not None and path.partition(":")[0] == hub["path"]
    return DataConfig(path=path, subset=hub["subset"] if hub and on_hub else None, max_rows=options.max_rows)


def _recognised(rows: DataConfig) -> str:
    """The kind of task whose columns the first row has."""
    first = next(read_rows(rows, BadRows(rows)), None)
    columns = set(first.values) if first else set()
    for kind, needed in (("mmlu", PROMPT_COLUMNS), ("choices", PART_COLUMNS), ("gsm8k", _GSM8K_COLUMNS.values())):
        if columns.issuperset(needed):
            return kind
    shown = ", ".join(sorted(columns)) or "none"
    ways = ", ".join(f"{kind}={rows.path}" for kind in ("loss", *get_args(Metric)))
    raise ConfigError(f"{rows.path} (columns: {shown}) doesn't show what is to be measured; say it, as one of {ways}")


def _choices(name: str, rows: DataConfig, options: TaskOptions) -> Task:
    return MultipleChoice(name=_called(name, rows), data=rows, style="letters" if name == "mmlu" else "whole")


def _loss(name: str, rows: DataConfig, options: TaskOptions) -> Task:
    return Loss(name=_called(name, rows), data=rows, max_length=options.max_length, show=options.show)


def _scored(name: str, rows: DataConfig, options: TaskOptions) -> Task:
    metric: Any = "number_match" if name == "gsm8k" else name
    if name == "gsm8k" and rows.fields is None:
        rows = replace(rows, fields=_GSM8K_COLUMNS)
    config = TaskConfig(data=rows, metric=metric, max_new_tokens=options.max_new_tokens)
    return Generation(name=_called(name, rows), config=config)


def _harness(name: str, options: TaskOptions) -> Task:
    task = Harness(task=name, max_rows=options.max_rows, num_fewshot=options.num_fewshot, chat=options.chat)
    if task.is_the_harness_own and name not in harness_names():
        raise ConfigError(_unknown(name, name))
    return task


_KINDS: dict[str, Callable[[str, DataConfig, TaskOptions], Task]] = {
    "mmlu": _choices,
    "gsm8k": _scored,
    "choices": _choices,
    "loss": _loss,
    **dict.fromkeys(get_args(Metric), _scored),
}


def _called(name: str, rows: DataConfig) -> str:
    """Known data sets are called by their name, others by their file's."""
    return name if name in _HUB else Path(rows.path).name.partition(".")[0]


def _unknown(text: str, name: str) -> str:
    known = [*_KINDS, *(harness_names() if is_installed() else [])]
    near = get_close_matches(name, known, n=1)
    hint = f". Did you mean {near[0]!r}?" if near else "."
    more = "" if is_installed() else "; those of lm-evaluation-harness need pip install 'quatrain[eval]'"
    ours = ", ".join(_KINDS)
    return f"there is no task, file or folder {text!r}{hint} Ours are {ours}, and files of rows{more}"
