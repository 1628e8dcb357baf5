"""The formats that rows come in, told apart by their columns, and read into examples.

A format is a name, the columns that it can't do without, and a reader. The columns of the first row decide, in the
order of the table (the more particular first: a flat OASST message has a ``text`` too). Every later row must have the
columns as well, so that a file in which two schemas are mixed is named at the row where the second one begins.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from quatrain.data.bad_rows import BadRows
from quatrain.data.config import DataConfig
from quatrain.data.examples import Completion, Conversation, Example, Message, Text
from quatrain.data.messages import read_messages, read_text
from quatrain.data.oasst import read_flat_messages, read_tree
from quatrain.data.rows import Place, Row
from quatrain.errors import DataError, RowError

Located = tuple[Place, Example]
"""An example with the place that its row came from."""

Read = Callable[[Iterator[Row], DataConfig, BadRows], Iterator[Located]]


@dataclass(frozen=True)
class Format:
    """A named schema: the columns that a row must have, and the reader of rows that have them."""

    name: str
    required: tuple[str, ...]
    read: Read
    recognize: Callable[[Mapping[str, Any]], bool] = lambda values: True

    def fits(self, values: Mapping[str, Any]) -> bool:
        return all(values.get(column) is not None for column in self.required) and self.recognize(values)


def read_examples(rows: Iterator[Row], config: DataConfig, bad: BadRows) -> Iterator[Located]:
    """Yields ``(where, example)`` for every row, in the format that the config names or the first row shows.

    Raises:
        DataError: there are no rows, the format isn't recognized, or `bad` doesn't let a bad row pass.
    """
    if config.fields is not None:
        rows = _passing(rows, partial(_rename, fields=config.fields), bad)
    first = next(rows, None)
    if first is None:
        left_out = f": all {bad.counts.total():,} are bad; the first: {bad.first[0]}" if bad.first else "."
        raise DataError(f"{config.path} has no rows{left_out}")
    chosen = detect(first) if config.format == "auto" else FORMATS[config.format]
    how = "by its first row" if config.format == "auto" else "by `format`"
    checked = _passing(chain([first], rows), partial(_checked, chosen=chosen, how=how), bad)
    return chosen.read(checked, config, bad)


def _passing(rows: Iterator[Row], change: Callable[[Row], Row], bad: BadRows) -> Iterator[Row]:
    """The rows that `change` doesn't refuse, changed."""
    for row in rows:
        try:
            changed = change(row)
        except RowError as error:
            bad.meet(error)
            continue
        yield changed


def detect(row: Row) -> Format:
    """The first format of the table whose columns the row has.

    Raises:
        DataError: none fits; the message lists the row's columns, the formats, and an example of a field map.
    """
    for candidate in FORMATS.values():
        if candidate.fits(row.values):
            return candidate
    known = "; ".join(f"{f.name} ({', '.join(f.required)})" for f in FORMATS.values())
    raise DataError(
        f"{row.where}: no known format has the columns {list(row.values)}. Known formats: {known}. "
        "Name the columns with a field map, for example `fields: {prompt: question, completion: answer}`."
    )


def _rename(row: Row, fields: Mapping[str, str]) -> Row:
    missing = [theirs for theirs in fields.values() if theirs not in row.values]
    if missing:
        reason = f"`fields` names the columns {missing}, the row has {list(row.values)}."
        raise RowError(row.where, _OTHER_SCHEMA, reason)
    return Row(row.where, {ours: row.values[theirs] for ours, theirs in fields.items()})


def _checked(row: Row, chosen: Format, how: str) -> Row:
    missing = [column for column in chosen.required if column not in row.values]
    if missing:
        reason = (
            f"the column {missing[0]!r} is missing: the data was taken as {chosen.name} ({how}), which "
            f"needs {', '.join(chosen.required)}; this row has {list(row.values)}. One file must hold one format."
        )
        raise RowError(row.where, _OTHER_SCHEMA, reason)
    return row


_OTHER_SCHEMA = "of another schema"


def _each(read: Callable[[Row], Example]) -> Read:
    """A reader for formats in which a row is an example."""

    def read_all(rows: Iterator[Row], config: DataConfig, bad: BadRows) -> Iterator[Located]:
        for row in rows:
            try:
                example = read(row)
            except RowError as error:
                bad.meet(error)
                continue
            yield row.where, example

    return read_all


def _read_chat(column: str) -> Callable[[Row], Conversation]:
    def read(row: Row) -> Conversation:
        messages = read_messages(row.values[column], row.where)
        return Conversation((*_system_turn(row), *messages))

    return read


def _system_turn(row: Row) -> tuple[Message, ...]:
    system = read_text(row.values.get("system"), row.where)
    return ({"role": "system", "content": system},) if system else ()


def _read_alpaca(row: Row) -> Conversation:
    """Instruction and input are one user turn, as two paragraphs; earlier rounds come from ``history``."""
    values, where = row.values, row.where
    instruction, given = read_text(values["instruction"], where), read_text(values.get("input"), where)
    asked = f"{instruction}\n\n{given}" if instruction and given else instruction or given
    turns = [*_history(values.get("history"), where), (asked, read_text(values["output"], where))]
    messages = [
        {"role": role, "content": content}
        for question, answer in turns
        for role, content in (("user", question), ("assistant", answer))
    ]
    return Conversation((*_system_turn(row), *messages))


def _history(value: Any, where: Place) -> list[tuple[str, str]]:
    rounds = [] if value is None or value == "" else value
    if not isinstance(rounds, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in rounds):
        reason = f"`history` must be a list of [question, answer] pairs, got {type(value).__name__}."
        raise RowError(where, "a malformed conversation", reason)
    return [(read_text(question, where), read_text(answer, where)) for question, answer in rounds]


def _read_prompt_completion(row: Row) -> Completion | Conversation:
    """Two strings stay a completion; as soon as one side is a list of turns, both are turns of one conversation."""
    prompt, completion = row.values["prompt"], row.values["completion"]
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return Completion(read_text(prompt, row.where), read_text(completion, row.where))
    before, after = _as_turns(prompt, "user", row.where), _as_turns(completion, "assistant", row.where)
    return Conversation((*before, *after), learn_from=len(before))


def _as_turns(value: Any, role: str, where: Place) -> tuple[Message, ...]:
    if isinstance(value, list):
        return read_messages(value, where)
    return ({"role": role, "content": read_text(value, where)},)


def _read_text(row: Row) -> Text:
    return Text(read_text(row.values["text"], row.where))


def _read_trees(rows: Iterator[Row], config: DataConfig, bad: BadRows) -> Iterator[Located]:
    for row in rows:
        try:
            conversations = list(read_tree(row.values["prompt"], row.where, config.paths))
        except RowError as error:
            bad.meet(error)
            continue
        for messages in conversations:
            yield row.where, Conversation(messages)


def _read_flat(rows: Iterator[Row], config: DataConfig, bad: BadRows) -> Iterator[Located]:
    for where, messages in read_flat_messages(rows, config.paths, bad):
        yield where, Conversation(messages)


_TABLE = (
    Format("messages", ("messages",), _each(_read_chat("messages"))),
    Format("sharegpt", ("conversations",), _each(_read_chat("conversations"))),
    Format("oasst_trees", ("prompt",), _read_trees, lambda values: isinstance(values["prompt"], dict)),
    Format("oasst_messages", ("message_id", "role", "text"), _read_flat),
    Format("prompt_completion", ("prompt", "completion"), _each(_read_prompt_completion)),
    Format("alpaca", ("instruction", "output"), _each(_read_alpaca)),
    Format("text", ("text",), _each(_read_text)),
)
FORMATS = {entry.name: entry for entry in _TABLE}
