"""`quatrain judge answer`, and what it shares with `quatrain judge compare`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatrain.cli.arguments import (
    Device,
    Force,
    MaxNewTokens,
    Quantization,
    System,
    Temperature,
    TrustRemoteCode,
    field_map,
)
from quatrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from quatrain.evaluation.judging.open_questions import OpenQuestion
    from quatrain.training.progress import ProgressDisplay

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The comparison's folder; made if it isn't there.")]


def answer(
    folder: Folder,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL|RUN|FILE...",
            help="Who answers: a run, an adapter, a base, or a file of answers that somebody else has given.",
        ),
    ],
    questions: Annotated[
        str | None,
        typer.Option(help="File, folder or hub name of the questions; needed the first time.", show_default=False),
    ] = None,
    max_questions: Annotated[
        int | None, typer.Option(min=1, help="Take the first questions only.", show_default=False)
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="Our column of the questions = theirs, as in text=question.", show_default=False),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Part of a hub data set.", show_default=False)] = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a hub data set.", show_default=False)] = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 1024,
    temperature: Temperature = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that together reach this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions that are answered at once.")] = 16,
    quantization: Quantization = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
) -> None:
    """Collect the answers of each model to all questions. What was answered before isn't asked again.

    Example: `quatrain judge answer vicuna base=HuggingFaceTB/SmolLM2-135M-Instruct runs/guanaco
    chatgpt=answers_chatgpt.jsonl --questions vicuna_questions.jsonl`

    Questions are rows with `text`, `messages`, or `prompt` and `completion`: what training reads, this reads. A file of
    answers has a row for each question with `answer` (or `completion`, `output`, `text`) and the question's `item`
    (or `question_id`, `id`); without these, rows are in the questions' order.
    """
    from quatrain.data import DataConfig
    from quatrain.decoding import Sampling
    from quatrain.evaluation.judging.folder import ComparisonFolder
    from quatrain.evaluation.judging.open_questions import read_open_questions
    from quatrain.training.progress import ProgressDisplay

    comparison, named = ComparisonFolder(folder), by_name(models)
    sampling = Sampling(temperature=temperature, top_p=top_p)
    if questions is not None:
        which = {"fields": field_map(fields), "split": split, "subset": subset, "max_rows": max_questions}
        comparison.ask(read_open_questions(DataConfig(path=questions, **which)))
    asked = comparison.questions()
    how = {"system": system, "max_new_tokens": max_new_tokens, "seed": seed, "batch_size": batch_size}
    loading = {"quantization": quantization, "device": device, "trust_remote_code": trust_remote_code, "force": force}
    with kept("answers"), ProgressDisplay() as display:
        for name, source in named.items():
            log = comparison.answer_log(name)
            if _is_file_of_answers(Path(source)):
                display.say(f"{name}: {_take_over(asked, log, Path(source))}")
            else:
                _let_answer(asked, log, source, {**how, "sampling": sampling}, loading, display)


def by_name(given: list[str]) -> dict[str, str]:
    """Sources by name, from "NAME=SOURCE", or from a source that lends the last part of its own.

    Raises:
        ConfigError: two have one name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            name, source = Path(text).name.removesuffix(".jsonl"), text
        if name in found:
            raise ConfigError(f"everyone needs a name of their own, and {name!r} comes twice; write NAME={source}")
        found[name] = source
    return found


@contextmanager
def kept(what: str) -> Iterator[None]:
    """Within it an interrupt is answered with what is true here: nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; the {what} so far are kept, and the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None


def _is_file_of_answers(source: Path) -> bool:
    from quatrain.data.readers import is_readable

    return source.is_file() and is_readable(source)


def _take_over(questions: "list[OpenQuestion]", path: Path, source: Path) -> str:
    """Put a file's answers to these questions into the log; says how many."""
    from quatrain.evaluation.judging.answers import read_answers
    from quatrain.evaluation.judging.row_log import row_log

    answers = read_answers(source)
    items = [question.item for question in questions if question.item in answers]
    if not items:
        shown = ", ".join(list(answers)[:3])
        raise DataError(f"{source} answers none of the questions; its answers are to {shown or 'nothing'}, …")
    with row_log(path, {"kind": "file", "file": source.name}) as log:
        known = {row.values.get("item") for row in log.rows}
        log.append([{"item": item, "answer": answers[item]} for item in items if item not in known])
    return f"{len(items)} of {len(questions)} questions are answered in {source}"


def _let_answer(
    questions: "list[OpenQuestion]",
    path: Path,
    source: str,
    how: dict[str, Any],
    loading: dict[str, Any],
    display: "ProgressDisplay",
) -> None:
    """Load the model and have it answer what isn't answered; it isn't loaded for nothing."""
    from dataclasses import asdict

    from quatrain.evaluation.judging.answers import answer_questions
    from quatrain.evaluation.judging.row_log import row_log
    from quatrain.training.opening import open_model

    name = path.name.removesuffix(".jsonl")
    settings = {"kind": "model", "model": source, "quantization": loading["quantization"]}
    settings |= {name: how[name] for name in ("system", "max_new_tokens")} | asdict(how["sampling"])
    if how["sampling"].temperature > 0:
        # What is drawn depends on which questions share a batch.
        settings |= {name: how[name] for name in ("seed", "batch_size")}
    with row_log(path, settings) as log:
        if {question.item for question in questions} <= {row.values.get("item") for row in log.rows}:
            display.say(f"{name}: all {len(questions)} questions are answered")
            return
        model, tokenizer = open_model(source, **loading)
        answer_questions(
            model, tokenizer, questions, log, **how, progress=lambda *at: display.work(f"{name} answers", *at)
        )
