"""Reads lists of chat turns in their dialects (OpenAI's role/content, ShareGPT's from/value) into one form."""

import math
from collections.abc import Sequence
from typing import Any

from quatrain.data.examples import Message
from quatrain.data.rows import Place
from quatrain.errors import RowError

ROLES = {
    **{"system": "system", "developer": "system"},
    **{"user": "user", "human": "user", "prompter": "user"},
    **{"assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"},
    **{"tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool"},
}
"""Names of speakers that data sets use → the role that chat templates know."""

_MALFORMED = "a malformed conversation"
_KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content")


def read_messages(value: Any, where: Place) -> tuple[Message, ...]:
    """Turns a list of ``{role, content}`` or ``{from, value}`` into messages with known roles and text contents.

    Raises:
        RowError: it isn't such a list, a role isn't known, or a content isn't text.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError(where, _MALFORMED, f"a conversation must be a list of turns, got {type(value).__name__}.")
    return tuple(_read_message(turn, f"{where}, turn {number}") for number, turn in enumerate(value, 1))


def _read_message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError(where, _MALFORMED, f"a turn must have named fields, got {type(turn).__name__}.")
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    if role_key not in turn:
        reason = f"a turn needs `role` and `content` (or `from` and `value`), got {sorted(turn)}."
        raise RowError(where, _MALFORMED, reason)
    role = turn[role_key]
    if not isinstance(role, str) or role.lower() not in ROLES:
        reason = f"the role {_brief(role)} isn't known; known are {', '.join(sorted(ROLES))}."
        raise RowError(where, "an unknown role", reason)
    if content_key not in turn and not turn.get("tool_calls"):
        raise RowError(where, _MALFORMED, f"the turn has no `{content_key}`, only {sorted(turn)}.")
    message: Message = {"role": ROLES[role.lower()], "content": _read_content(turn.get(content_key), where)}
    for key in _KEPT:
        if turn.get(key) is not None:
            message[key] = _checked(turn[key], where)
    return message


def _checked(value: Any, where: str) -> Any:
    """What a template may write out as it is: everything in it must have a spelling in JSON and in UTF-8."""
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, float) and not math.isfinite(top):
            raise RowError(where, "a number that isn't finite", f"{top} stands in a turn; JSON has no such number.")
        if isinstance(top, str):
            read_text(top, where)
        stack += [*top.keys(), *top.values()] if isinstance(top, dict) else top if isinstance(top, list) else []
    return value


def _read_content(value: Any, where: str) -> str:
    """Text, or a list of parts that are all text."""
    if not isinstance(value, list):
        return read_text(value, where)
    texts = []
    for part in value:
        if not isinstance(part, dict) or "text" not in part or part.get("type", "text") != "text":
            reason = f"only text can be trained on, but a part of the content is {_brief(part)}."
            raise RowError(where, "a part that isn't text", reason)
        texts.append(read_text(part["text"], where))
    return "".join(texts)


def read_text(value: Any, where: object) -> str:
    """A string that can be encoded; a missing value (None) is the empty string.

    Raises:
        RowError: another type, or half of a surrogate pair, which JSON can spell but UTF-8 can't.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(where, "not text", f"text is expected, got {type(value).__name__} {_brief(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        reason = f"character {error.start + 1} is half of a surrogate pair."
        raise RowError(where, "half of a surrogate pair", reason) from error
    return value


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
