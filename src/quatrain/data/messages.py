"""Reads lists of chat turns in their dialects (OpenAI's role/content, ShareGPT's from/value) into one form."""

from collections.abc import Sequence
from typing import Any

from quatrain.data.examples import Message
from quatrain.errors import DataError

ROLES = {
    **{"system": "system", "developer": "system"},
    **{"user": "user", "human": "user", "prompter": "user"},
    **{"assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"},
    **{"tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool"},
}
"""Names of speakers that data sets use → the role that chat templates know."""

_KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content")


def read_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Turns a list of ``{role, content}`` or ``{from, value}`` into messages with known roles and text contents.

    Raises:
        DataError: it isn't such a list, a role isn't known, or a content isn't text.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{where}: a conversation must be a list of turns, got {type(value).__name__}.")
    return tuple(_read_message(turn, f"{where}, turn {number}") for number, turn in enumerate(value, 1))


def _read_message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{where}: a turn must have named fields, got {type(turn).__name__}.")
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    if role_key not in turn:
        raise DataError(f"{where}: a turn needs `role` and `content` (or `from` and `value`), got {sorted(turn)}.")
    role = turn[role_key]
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise DataError(f"{where}: the role {role!r} isn't known; known are {', '.join(sorted(ROLES))}.")
    if content_key not in turn and not turn.get("tool_calls"):
        raise DataError(f"{where}: the turn has no `{content_key}`, only {sorted(turn)}.")
    message: Message = {"role": ROLES[role.lower()], "content": _read_content(turn.get(content_key), where)}
    message.update({key: turn[key] for key in _KEPT if turn.get(key) is not None})
    return message


def _read_content(value: Any, where: str) -> str:
    """Text, or a list of parts that are all text."""
    if not isinstance(value, list):
        return read_text(value, where)
    texts = []
    for part in value:
        if not isinstance(part, dict) or "text" not in part or part.get("type", "text") != "text":
            raise DataError(f"{where}: only text can be trained on, but a part of the content is {_brief(part)}.")
        texts.append(read_text(part["text"], where))
    return "".join(texts)


def read_text(value: Any, where: str) -> str:
    """A string that can be encoded; a missing value (None) is the empty string.

    Raises:
        DataError: another type, or half of a surrogate pair, which JSON can spell but UTF-8 can't.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: text is expected, got {type(value).__name__} {_brief(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: character {error.start + 1} is half of a surrogate pair.") from error
    return value


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
