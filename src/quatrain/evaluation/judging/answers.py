"""Answers: read from files of one row an answer, or given by a model of ours."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quatrain.data import BadRows, DataConfig, Message, render_prompt
from quatrain.data.readers import read_file
from quatrain.data.rows import Row
from quatrain.decoding import Sampling
from quatrain.errors import RowError
from quatrain.evaluation.generation import answer_batches
from quatrain.evaluation.judging.open_questions import OpenQuestion, item_of
from quatrain.evaluation.judging.row_log import RowLog

_COLUMNS = ("answer", "completion", "output", "text")
"""What files call an answer; the last is FastChat's, whose answers were judged for the QLoRA paper."""


def read_answers(path: Path) -> dict[str, str]:
    """Item → answer, from a file of any model's answers, such as one that `quatrain generate --out` wrote.

    A row has `answer`, `completion`, `output` or `text`; its question is `item`, `question_id` or `id`, or else its
    number in the file.

    Raises:
        DataError: the file can't be read, a row has no answer, or a question is answered twice.
    """
    answers: dict[str, str] = {}
    for number, row in enumerate(read_file(path, BadRows(DataConfig(path=str(path)))), start=1):
        item = item_of(row.values) or str(number)
        if item in answers:
            raise RowError(row.where, "answered twice", f"the question {item!r} is answered a second time; keep one.")
        answers[item] = answer_of(row)
    return answers


def answer_of(row: Row) -> str:
    """Raises RowError if there is none."""
    given = [row.values[column] for column in _COLUMNS if isinstance(row.values.get(column), str)]
    if not given:
        reason = f"an answer stands in {', '.join(_COLUMNS)}; the row has {', '.join(map(str, row.values))}."
        raise RowError(row.where, "no answer", reason)
    return given[0]


def answer_questions(
    model: Any,
    tokenizer: Any,
    questions: Sequence[OpenQuestion],
    log: RowLog,
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    sampling: Sampling | None = None,
    seed: int = 0,
    system: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Answer every question that the log doesn't hold an answer to, and append the answers batch by batch.

    Args:
        log: of rows with `item` and `answer`.
        sampling: how tokens are chosen; greedily if None.
        seed: of what is drawn.
        system: a system message to put before questions that have none.

    Raises:
        DataError: a question can't be rendered by the model's chat template.
    """
    known = {str(row.values.get("item")) for row in log.rows}
    done = {number for number, question in enumerate(questions) if question.item in known}
    prompts = [render_prompt(_opened(question.messages, system), tokenizer) for question in questions]
    how = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "sampling": sampling, "seed": seed}
    for batch in answer_batches(model, tokenizer, prompts, done=frozenset(done), **how):
        log.append([_row(questions[number], text) for number, text in batch.items() if number not in done])
        done |= batch.keys()
        if progress:
            progress(len(done), len(questions))


def _opened(messages: Sequence[Message], system: str | None) -> list[Message]:
    if system is None or messages[0]["role"] == "system":
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


def _row(question: OpenQuestion, answer: str) -> Mapping[str, Any]:
    return {"item": question.item, "answer": answer}
