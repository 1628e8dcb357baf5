"""Questions without one right answer, as a list that several models answer.

Any data set that training reads will do: of a conversation everything before its last answer is the question, of a
prompt with a completion the prompt, of a plain text all of it (`{"question_id": 1, "text": …}`, as the Vicuna questions
have it). A row's `question_id`, `id` or `item` names it, or else its number.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from quatrain.data import BadRows, Completion, Conversation, DataConfig, Example, Message, Text
from quatrain.data.formats import read_examples
from quatrain.data.rows import Place, Row
from quatrain.data.sources import read_rows
from quatrain.errors import DataError

_NAMES = ("item", "question_id", "id")


@dataclass(frozen=True)
class OpenQuestion:
    """What is asked."""

    item: str
    """What the question is called in answers and verdicts."""
    messages: tuple[Message, ...]
    """Up to where the answer begins."""

    @property
    def text(self) -> str:
        """For a judge to read: the only turn, or all of them with who said it."""
        if len(self.messages) == 1:
            return str(self.messages[0]["content"])
        return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in self.messages)


def read_open_questions(config: DataConfig) -> list[OpenQuestion]:
    """The questions of a data set, in its order.

    Raises:
        DataError: it can't be read, a row holds no question, or two questions have one name.
    """
    bad, names = BadRows(config), dict[Place, str]()
    rows = _noted(read_rows(config, bad), names)
    questions: dict[str, OpenQuestion] = {}
    for number, (where, example) in enumerate(read_examples(rows, config, bad), start=1):
        item = names.get(where, str(number))
        if item in questions:
            raise DataError(f"{where}: every question needs a name of its own, and {item!r} occurs a second time")
        questions[item] = OpenQuestion(item, _asked(example, where))
    return list(questions.values())


def item_of(values: dict[str, Any]) -> str | None:
    """What a row calls its question, if it does."""
    given = next((values[name] for name in _NAMES if values.get(name) not in (None, "")), None)
    return str(given) if isinstance(given, str | int) else None


def _noted(rows: Iterable[Row], names: dict[Place, str]) -> Iterator[Row]:
    """The rows as they are; `names` learns what they call their questions, before the formats leave that out."""
    for row in rows:
        item = item_of(row.values)
        if item is not None:
            names[row.where] = item
        yield row


def _asked(example: Example, where: Place) -> tuple[Message, ...]:
    match example:
        case Completion(prompt, _) | Text(prompt):
            messages: tuple[Message, ...] = ({"role": "user", "content": prompt},)
        case Conversation(messages) if messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise DataError(
            f"{where}: no question in it; its last turn before the answer must be the user's, and say something"
        )
    return messages
