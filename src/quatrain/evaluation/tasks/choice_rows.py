"""Multiple-choice questions out of rows, in the two forms in which they are handed around.

**As a prompt** (`subject`, `input`, `output`), in which QLoRA's authors published MMLU: the whole prompt with its
lettered choices is written out, and the output is a letter. **As parts** (`question`, `choices`, `answer`, and perhaps
`subject`), as on the hub: the answer is a number from 0, a letter, or the text of a choice. ARC's variant (`choices`
with `text` and `label`, `answerKey`) is read too.

Parts are asked in one of two ways. *Letters*: the choices are listed in the prompt, and the model is to give the
letter; this is how MMLU is asked, word for word as in the published prompts. *Whole*: the prompt is the question alone,
and the choice that the model finds likeliest is its answer, as for ARC and HellaSwag; small models do better at that.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from quatrain.data import BadRows, DataConfig
from quatrain.data.rows import Row
from quatrain.data.sources import read_rows
from quatrain.errors import DataError, RowError

Style = Literal["letters", "whole"]

PROMPT_COLUMNS = ("input", "output")
PART_COLUMNS = ("question", "choices")

_CHOICE_LINE = re.compile(r"^([A-Z])\. ", re.MULTILINE)
_MALFORMED = "a malformed question"


@dataclass(frozen=True)
class ChoiceQuestion:
    """A prompt, what may follow it, and which of these should."""

    prompt: str
    choices: tuple[str, ...]
    """Each follows the prompt behind a space."""
    answer: int
    subject: str | None = None


def read_choice_questions(config: DataConfig, style: Style) -> list[ChoiceQuestion]:
    """All questions of a data set.

    Raises:
        DataError: the rows can't be read, lack columns, or have an answer that isn't among the choices.
    """
    bad = BadRows(config)
    questions = list(_questions(read_rows(config, bad), style, bad))
    if not questions:
        raise DataError(f"{config.path} has no questions; multiple choice needs at least one")
    return questions


def _questions(rows: Iterator[Row], style: Style, bad: BadRows) -> Iterator[ChoiceQuestion]:
    for row in rows:
        try:
            yield _question(row, style)
        except RowError as error:
            bad.meet(error)


def _question(row: Row, style: Style) -> ChoiceQuestion:
    values = row.values
    if all(column in values for column in PROMPT_COLUMNS):
        return _from_prompt(row)
    if all(column in values for column in PART_COLUMNS) and ("answer" in values or "answerKey" in values):
        return _from_parts(row, style)
    reason = (
        "a multiple-choice question has the columns question, choices and answer, or subject, input and output; this "
        f"row has {', '.join(values)}."
    )
    raise RowError(row.where, "of another schema", reason)


def _from_prompt(row: Row) -> ChoiceQuestion:
    prompt, answer = (_text(row, column) for column in PROMPT_COLUMNS)
    subject = row.values.get("subject")
    letters = _letters_of(prompt)
    return ChoiceQuestion(prompt, letters, _place(row, answer, letters), None if subject is None else str(subject))


def _letters_of(prompt: str) -> tuple[str, ...]:
    """The letters of the choices that the prompt ends with; A to D where none are listed."""
    found: list[str] = []
    for letter in reversed(_CHOICE_LINE.findall(prompt)):
        if found and ord(letter) != ord(found[-1]) - 1:
            break
        found.append(letter)
    listed = tuple(reversed(found))
    return listed if listed[:1] == ("A",) and len(listed) > 1 else ("A", "B", "C", "D")


def _from_parts(row: Row, style: Style) -> ChoiceQuestion:
    question, subject = _text(row, "question"), row.values.get("subject")
    choices, labels = _choices(row)
    answer = row.values.get("answer", row.values.get("answerKey"))
    place = answer if isinstance(answer, int) else _place(row, answer, labels, choices)
    if isinstance(place, bool) or not 0 <= place < len(choices):
        raise RowError(row.where, _MALFORMED, f"the answer is {answer!r}, and there are {len(choices)} choices.")
    subject = None if subject is None else str(subject)
    if style == "letters":
        return ChoiceQuestion(_mmlu_prompt(question, choices, subject), labels, place, subject)
    return ChoiceQuestion(f"Question: {question}\nAnswer:", choices, place, subject)


def _choices(row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(choices, their letters)."""
    given: Any = row.values["choices"]
    if isinstance(given, Mapping):
        given = given.get("text")
    texts = isinstance(given, list) and all(isinstance(choice, str) and choice.strip() for choice in given)
    if not texts or not 2 <= len(given) <= len(ascii_uppercase):
        reason = f"`choices` must be a list of 2 to {len(ascii_uppercase)} texts, got {row.values['choices']!r}."
        raise RowError(row.where, _MALFORMED, reason)
    return tuple(given), tuple(ascii_uppercase[: len(given)])


def _place(row: Row, answer: Any, letters: tuple[str, ...], texts: tuple[str, ...] = ()) -> int:
    """Which choice an answer names: by its letter, its number in ARC's labels, or its text."""
    said = answer.strip() if isinstance(answer, str) else answer
    labels = row.values["choices"].get("label") if isinstance(row.values.get("choices"), Mapping) else None
    for names in (labels, letters, texts):
        if names and said in names:
            return names.index(said)
    among = f"one of the letters {', '.join(letters)}" + (", or a choice's number from 0 or its text" if texts else "")
    raise RowError(row.where, "an answer that is no choice", f"the answer must be {among}, got {answer!r}.")


def _mmlu_prompt(question: str, choices: tuple[str, ...], subject: str | None) -> str:
    """As in `zero_shot_mmlu_val.json` of https://github.com/artidoro/qlora, two spaces before the subject included."""
    about = "" if subject is None else f" about  {subject.replace('_', ' ')}"
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(ascii_uppercase, choices, strict=False))
    return f"The following are multiple choice questions (with answers){about}.\n\n{question}\n{listed}Answer:"


def _text(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str) or not value.strip():
        raise RowError(row.where, _MALFORMED, f"`{column}` must be a text, got {value!r}.")
    return value
