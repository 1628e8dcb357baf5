"""Measuring a model by tasks, with every answer kept as it comes.

    evaluations/                        the folder that the caller names
      run-1a2b3c4d/                     one model with its adapter: its name, and the beginning of its fingerprint
        results.json                    figures of all tasks
        mmlu-5e6f7a8b.jsonl             answers to a task: its name, and the beginning of its fingerprint

Fingerprints are of everything that the answers depend on (`Subject.fingerprint`; questions and settings of a task), so
going on after a stop is asking the same again, and answers of two models, or to two forms of a task, can't get mixed.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quatrain.adapters.provenance import provenance_of
from quatrain.device import name as device_name
from quatrain.errors import ConfigError, DataError, OutputError
from quatrain.evaluation.tasks.answer_file import AnswerFile, read_answers
from quatrain.evaluation.tasks.figures import Difference, TaskFigures
from quatrain.evaluation.tasks.names import read_tasks
from quatrain.evaluation.tasks.subject import DIGITS, Subject, file_name
from quatrain.evaluation.tasks.task import Prepared, Task
from quatrain.files import file_aside

RESULTS = "results.json"

Progress = Callable[[str, int, int], object]
"""Told (task, questions answered, questions in all)."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one subject."""

    subject: str
    folder: Path
    figures: tuple[TaskFigures, ...]

    def differences_from(self, before: "Evaluation") -> list[Difference]:
        """What differs in the tasks that both have answered, question by question.

        Raises:
            DataError: there is no task that both were asked in the same form.
        """
        asked = {figures.asked: figures for figures in before.figures}
        both = [(figures, asked[figures.asked]) for figures in self.figures if figures.asked in asked]
        if not both:
            ours, theirs = (", ".join(figures.task for figures in side.figures) or "nothing" for side in (self, before))
            raise DataError(
                f"only the same questions under the same settings can be compared; {before.subject} was asked "
                f"{theirs}, {self.subject} {ours}. Measure both with the same tasks and settings"
            )
        return [difference for figures, earlier in both for difference in figures.differences_from(earlier)]


def evaluate(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str | Task],
    *,
    folder: str | Path = "evaluations",
    name: str = "model",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model by tasks. Answers that `folder` holds already aren't asked for again.

    Args:
        model: a causal language model, adapted or not; it is left in evaluation mode.
        tokenizer: the model's.
        tasks: names as `quatrain eval --tasks` takes them ("mmlu", "gsm8k=test.jsonl", "rows.jsonl",
            "lm_eval:hellaswag"), or tasks.
        folder: where answers and `results.json` go, in a folder of the model's own.
        name: what to call the model there.
        batch_size: prompts that are answered at once.
        progress: told how far each task has come.

    Raises:
        ConfigError: no task is given, or there is none of such a name.
        DataError: a task's rows can't be read, or aren't what it needs.
        OutputError: the folder can't be written.
    """
    if not tasks:
        raise ConfigError("name at least one task, as in tasks=['mmlu']")
    chosen = [task for one in tasks for task in (read_tasks(one) if isinstance(one, str) else [one])]
    subject = Subject(model, tokenizer, name, batch_size, Path(folder))
    # Wrong rows of the last task are told before the first is answered.
    prepared = [(task, task.prepare(subject)) for task in chosen]
    figures = []
    for task, questions in prepared:
        figures.append(_measure(task, questions, subject, progress or (lambda *at: None)))
        _note(subject, figures[-1], task.source)
    return Evaluation(name, subject.folder, tuple(figures))


def read_evaluation(folder: str | Path) -> Evaluation:
    """What :func:`evaluate` left in a model's folder.

    Raises:
        DataError: it holds no answers, or unfinished ones.
    """
    paths = sorted(Path(folder).glob("*.jsonl"))
    if not paths:
        raise DataError(f"{folder} holds no answers; name a model's folder that `quatrain eval` wrote")
    read = [read_answers(path) for path in paths]
    figures = tuple(
        TaskFigures(header["task"], header["asked"], header["settings"], answers, closing)
        for header, answers, closing in read
    )
    return Evaluation(read[0][0]["model"], Path(folder), figures)


def _measure(task: Task, prepared: Prepared, subject: Subject, progress: Progress) -> TaskFigures:
    settings = dict(task.settings)
    asked = hashlib.sha256(f"{json.dumps(settings, sort_keys=True)} {prepared.identity}".encode()).hexdigest()
    header = {"task": task.name, "asked": asked, "settings": settings, "model": subject.name}
    header |= {"subject": subject.fingerprint}
    file = AnswerFile(subject.folder / f"{file_name(task.name)}-{asked[:DIGITS]}.jsonl", header)
    if file.closing is None:
        left = [number for number in range(prepared.total or 0) if number not in file.answers]
        for answer in prepared.answers(left):
            file.add(answer)
            if prepared.total is not None:
                progress(task.name, len(file.answers), prepared.total)
        file.close(prepared.close())
    assert file.closing is not None
    return TaskFigures(task.name, asked, settings, file.answers, file.closing)


def _note(subject: Subject, figures: TaskFigures, source: str) -> None:
    """Put a task's figures into the subject's results; those of others stay."""
    path = subject.folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else _heading(subject)
        told = {"source": source, "device": device_name(subject.model.device), **figures.to_dict()}
        results["tasks"][f"{file_name(figures.task)}-{figures.asked[:DIGITS]}"] = told
        with file_aside(path) as file:
            file.write((json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} can't be written, or isn't a file of results ({error}); move it away") from error


def _heading(subject: Subject) -> dict[str, Any]:
    provenance = asdict(provenance_of(subject.model, subject.tokenizer))
    del provenance["made"]
    return {"model": subject.name, "fingerprint": subject.fingerprint, **provenance, "tasks": {}}
