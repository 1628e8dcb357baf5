"""Everything that lm-evaluation-harness has, with our model as its model.

What a task asks and how it scores is the harness' (https://github.com/EleutherAI/lm-evaluation-harness): a name that it
knows, a group such as `mmlu`, or a YAML file in its form. Its scores per question become answers like any other
task's, so they have intervals and can be compared in pairs. Figures that aren't a mean over questions are handed on as
they are.

It writes each request's result into a cache of its own, which lies beside the answers until all are there; that is how
it goes on after a stop.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quatrain.errors import ConfigError, DataError
from quatrain.evaluation.tasks.subject import Subject
from quatrain.evaluation.tasks.task import Answered, Closing


def is_installed() -> bool:
    """Whether the harness is there."""
    return find_spec("lm_eval") is not None


def harness_names() -> list[str]:
    """All that it knows by name."""
    return _index(everything=True).all_tasks


@cache
def _index(*, everything: bool) -> Any:
    """Where it looks tasks up. Its own are thousands of files, whose reading takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=everything)


@dataclass(frozen=True, kw_only=True)
class Harness:
    """A task of the harness.

    Raises:
        ConfigError: the harness isn't installed.
    """

    task: str | dict[str, Any]
    """A name, a YAML file, or a task's configuration."""
    max_rows: int | None = None
    """The first questions of each of its tasks only."""
    num_fewshot: int | None = None
    """Solved questions before each; None leaves that to the task."""
    chat: bool = False
    """Ask through the chat template, as turns of a conversation."""

    def __post_init__(self) -> None:
        if not is_installed():
            raise ConfigError(f"{self.name!r} is asked through lm-evaluation-harness: pip install 'quatrain[eval]'")

    @property
    def is_the_harness_own(self) -> bool:
        """Whether it is looked up by its name."""
        return isinstance(self.task, str) and Path(self.task).suffix not in (".yaml", ".yml")

    @property
    def name(self) -> str:
        return str(self.task["task"]) if isinstance(self.task, dict) else Path(self.task).stem

    @property
    def settings(self) -> Mapping[str, Any]:
        from lm_eval import __version__

        return {
            "kind": "lm_eval",
            "lm_eval": __version__,
            "max_rows": self.max_rows,
            "num_fewshot": self.num_fewshot,
            "chat": self.chat,
        }

    @property
    def source(self) -> str:
        return "lm-evaluation-harness"

    def prepare(self, subject: Subject) -> "PreparedHarness":
        return PreparedHarness(self, subject)


class PreparedHarness:
    """A task of the harness, or the tasks of a group, with their rows.

    Raises:
        DataError: the harness can't load it.
    """

    total = None

    def __init__(self, task: Harness, subject: Subject):
        self._task, self._subject = task, subject
        self._closing = Closing()
        # It warns of every model that it hasn't loaded itself, and tells each setting that it takes over.
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        try:
            self._index = _index(everything=task.is_the_harness_own)
            self._tasks: dict[str, Any] = self._index.load([task.task])["tasks"]
            told = [(name, one.dump_config(), list(one.eval_docs)) for name, one in sorted(self._tasks.items())]
        except (KeyError, ValueError, OSError) as error:
            raise DataError(
                f"lm-evaluation-harness can't load {task.name!r} ({error}); check the name, and that its data set is "
                "at hand or the network is there"
            ) from error
        self.identity = hashlib.sha256(json.dumps(told, default=_kind).encode()).hexdigest()
        self._cache = subject.folder / f"{task.name}-{self.identity[:8]}"

    def answers(self, questions: Sequence[int]) -> Iterator[Answered]:
        """All of them: the harness keeps by itself what it knows already."""
        from lm_eval import simple_evaluate

        from quatrain.evaluation.tasks.harness_model import HarnessModel

        run: Any = simple_evaluate
        found = run(
            model=HarnessModel(self._subject),  # pyright: ignore[reportAbstractUsage]
            tasks=list(self._tasks.values()),
            num_fewshot=self._task.num_fewshot,
            limit=self._task.max_rows,
            use_cache=str(self._cache),
            bootstrap_iters=0,
            apply_chat_template=self._task.chat,
            fewshot_as_multiturn=self._task.chat,
            task_manager=self._index,
        )
        answers, figures = _sorted_out(found["samples"], found["results"])
        self._closing = Closing(figures)
        return iter(answers)

    def close(self) -> Closing:
        self._cache.with_name(f"{self._cache.name}_rank0.db").unlink(missing_ok=True)
        return self._closing


def _sorted_out(samples: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[list[Answered], dict[str, float]]:
    """(answers, figures that aren't means over them) out of what the harness tells."""
    answers: list[Answered] = []
    figures: dict[str, float] = {}
    for task, told in samples.items():
        scores: dict[int, dict[str, float]] = {sample["doc_id"]: {} for sample in told}
        for key, figure in results[task].items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr") or not isinstance(figure, int | float):
                continue
            name = metric if chosen == "none" else key
            values = {sample["doc_id"]: sample.get(metric) for sample in told if sample["filter"] == chosen}
            if _is_mean(figure, list(values.values())):
                for number, value in values.items():
                    scores[number][name] = float(value)
            else:
                figures[f"{task}: {name}" if len(samples) > 1 else name] = float(figure)
        first = {sample["doc_id"]: sample for sample in reversed(told)}
        for number in sorted(scores):
            group = task if len(samples) > 1 else None
            said = first[number]["filtered_resps"][0]
            said = said if isinstance(said, str) else ""
            answers.append(Answered(len(answers), scores[number], said, str(first[number]["target"]), group))
    return answers, figures


def _is_mean(figure: float, values: list[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float)]
    return len(numbers) == len(values) > 0 and math.isclose(figure, math.fsum(numbers) / len(numbers), abs_tol=1e-9)


def _kind(value: Any) -> str:
    """What stands for something in a fingerprint that has no plain value, such as a function of a task's own."""
    return type(value).__name__
