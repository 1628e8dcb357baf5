"""What a row becomes, whatever its format was: a conversation, a prompt with its completion, or plain text."""

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""One turn as chat templates read it: ``role``, ``content``, perhaps ``tool_calls`` or ``name``."""


@dataclass(frozen=True)
class Conversation:
    """Turns, of which the assistant's are learned from turn ``learn_from`` on."""

    messages: tuple[Message, ...]
    learn_from: int = 0


@dataclass(frozen=True)
class Completion:
    """A prompt and what should follow it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Text:
    """Text to continue; all of it is learned."""

    text: str


Example = Conversation | Completion | Text


def why_empty(example: Example) -> str | None:
    """Why there is nothing in it to learn from, if there isn't."""
    match example:
        case Conversation(messages, learn_from):
            replies = [m for m in messages[learn_from:] if m["role"] == "assistant"]
            if not replies:
                return "no reply in it"
            return None if any(m["content"].strip() or m.get("tool_calls") for m in replies) else "an empty reply"
        case Completion(_, completion):
            return None if completion.strip() else "an empty completion"
        case Text(text):
            return None if text.strip() else "an empty text"
