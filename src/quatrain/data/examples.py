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


def is_empty(example: Example) -> bool:
    """Whether there is nothing in it to learn from: no text, no completion, no reply that says something."""
    match example:
        case Conversation(messages, learn_from):
            replies = [m for m in messages[learn_from:] if m["role"] == "assistant"]
            return not any(m["content"].strip() or m.get("tool_calls") for m in replies)
        case Completion(_, completion):
            return not completion.strip()
        case Text(text):
            return not text.strip()
