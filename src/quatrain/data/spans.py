"""Finds, in a rendered conversation, which characters the assistant wrote.

For each reply two questions are put to the template, whatever it looks like inside:

* *Where does the reply end?* Render once more with the reply's content exchanged for a marker. What follows the
  marker also ends the original text, and what remains before it ends with the reply. This holds when the template
  trims, when it drops thinking, and when the same words occur in a user's turn, all of which defeat searching for the
  content.
* *Where does it begin?* After the prompt that the model would have been given: the turns before, rendered with the
  generation prompt. What the template writes between that and the content (a space, an empty thinking block) is then
  learned too, because it must be generated later. Where the prompt isn't a beginning of the text (Mistral moves the
  system text to the last user turn), the reply begins after what the prompt has behind its last turn, and failing
  that, at the content.

Templates with ``{% generation %}`` answer both themselves. Either way the token that ends the turn belongs to the
reply: a model that never learns it never stops.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from quatrain.data.examples import Message
from quatrain.data.template import ChatTemplate, marker
from quatrain.errors import DataError


@dataclass(frozen=True)
class Reply:
    """Characters ``[start, end)`` of the text; ``closed`` says that they end with the end-of-turn token."""

    start: int
    end: int
    closed: bool


def find_replies(template: ChatTemplate, messages: Sequence[Message], text: str, learn_from: int = 0) -> list[Reply]:
    """The replies among ``messages[learn_from:]`` in ``text``, which is the template's rendering of all messages.

    Raises:
        DataError: the template changes other parts of the text with a reply, so that it can't be located.
    """
    replies: list[Reply] = []
    for index in range(learn_from, len(messages)):
        if messages[index]["role"] == "assistant":
            reply = _locate(template, messages, index, text, replies[-1].end if replies else 0)
            replies += [reply] if reply else []
    return replies


def marked_replies(template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, list[Reply]]:
    """The text and the replies of a template with generation markers."""
    text, spans = template.render_marked(messages)
    return text, [_close(template, text, start, end) for start, end in spans if start < end]


def _locate(template: ChatTemplate, messages: Sequence[Message], index: int, text: str, earliest: int) -> Reply | None:
    """The reply at ``index``, or None when the template leaves that turn out."""
    exchanged = template.render(_with_content(messages, index))
    before, found, after = exchanged.partition(marker(index))
    if not found:
        return None
    if not text.endswith(after):
        raise DataError(
            f"turn {index + 1} can't be located: the chat template renders what follows it differently when its "
            "content changes. Put {% generation %} and {% endgeneration %} around the assistant's part in the template."
        )
    content_end = len(text) - len(after)
    content_start = len(before) if text.startswith(before) and len(before) <= content_end else None
    start = _start(template, messages, index, text, (earliest, content_end if content_start is None else content_start))
    reply = _close(template, text, start, content_end)
    return reply if reply.closed or not messages[index].get("tool_calls") else _close_after_calls(template, text, reply)


def _with_content(messages: Sequence[Message], index: int) -> list[Message]:
    return [{**m, "content": marker(index)} if i == index else m for i, m in enumerate(messages)]


def _start(template: ChatTemplate, messages: Sequence[Message], index: int, text: str, bounds: tuple[int, int]) -> int:
    """Where the model takes over, between ``bounds`` (the end of the reply before, the latest possible start)."""
    earliest, latest = bounds
    asked = messages[:index]
    if not asked or asked[-1]["role"] not in ("user", "tool"):
        return latest
    prompt = template.render(asked, reply_next=True)
    if earliest < len(prompt) <= latest and text.startswith(prompt):
        return len(prompt)
    exchanged = template.render(_with_content(asked, index - 1), reply_next=True)
    bridge = exchanged.partition(marker(index - 1))[2]
    position = text.rfind(bridge, earliest, latest) if bridge else -1
    return position + len(bridge) if position >= 0 else latest


def _close(template: ChatTemplate, text: str, start: int, end: int) -> Reply:
    """Extends a reply by the token that ends its turn, if the template writes one there."""
    for closing in template.closings:
        if text.startswith(closing.lead + closing.token, end):
            return Reply(start, end + len(closing.lead) + len(closing.token), closed=True)
    tokens = tuple(closing.token for closing in template.closings)
    return Reply(start, end, closed=text[start:end].rstrip().endswith(tokens))


def _close_after_calls(template: ChatTemplate, text: str, reply: Reply) -> Reply:
    """Tool calls are written between the content and the end of the turn, and are the assistant's as well."""
    found = [(text.find(closing.token, reply.end), closing.token) for closing in template.closings]
    ends = [position + len(token) for position, token in found if position >= 0]
    return Reply(reply.start, min(ends), closed=True) if ends else reply
