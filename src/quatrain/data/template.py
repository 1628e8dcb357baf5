"""A tokenizer's chat template as a function from messages to text, with what must be known about it.

Templates are programs from model repositories. They are only ever run within bounds (:mod:`sandbox`), and what one does
is found out by running it on marker contents and looking where the markers went. Matching patterns in its source would
be the alternative; it breaks with the next model family.

So are learned: whether it renders a question and its answer at all, and as ``apply_chat_template`` does; which roles it
takes (Gemma's raises on a system turn, others leave tools out in silence); and which special token ends a reply.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from quatrain.data.examples import Message
from quatrain.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quatrain.data.sandbox import BoundedTemplate

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""What a base model gets, which has no chat template: the role as a headline, and end-of-sequence after each reply."""

_GENERATION_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


def marker(number: int) -> str:
    """A content that no text holds (characters for private use), which survives trimming."""
    return f"\ue0a7{number}\ue0a8"


_ROLES_SHOWN = 12
_MOST_SAID = 300


def _probes(role: str) -> list[list[Message]]:
    """Conversations in which a turn of this role may stand; its content is a marker."""
    turn = {"role": role, "content": marker(0)}
    user = {"role": "user", "content": marker(1)}
    if role == "system":
        return [[turn, user]]
    calls = [
        {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": arguments}}
        for arguments in ({"x": 1}, '{"x": 1}')  # families differ in which of the two they take
    ]
    asked = [{"role": "assistant", "content": "", "tool_calls": [call]} for call in calls]
    answered = turn | {"tool_call_id": "call00000", "name": "f"}
    return [[user, call, answered] for call in asked] + [[user, {"role": "assistant", "content": marker(2)}, turn]]


@dataclass(frozen=True)
class Closing:
    """How a template ends a reply: ``lead``, often nothing, then ``token``, a special token's text (Cohere: two)."""

    lead: str
    token: str


class ChatTemplate:
    """Renders conversations with the tokenizer's template, or with :data:`PLAIN_TEMPLATE` when it has none."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises DataError where the template doesn't render a question and its answer."""
        self._tokenizer = tokenizer
        self.is_plain = not tokenizer.chat_template
        self._source = self._plain_source() if self.is_plain else self._chosen_source()
        self._try()

    def _chosen_source(self) -> str:
        """The template, or of several with names the one called default."""
        try:
            source = self._tokenizer.get_chat_template()
        except ValueError as error:
            raise DataError(f"the tokenizer has several chat templates and none is called default: {error}") from error
        if not isinstance(source, str):
            raise DataError(f"the tokenizer's chat template must be a text, got {type(source).__name__}.")
        return source

    def _try(self) -> None:
        """Render a question with its answer: a template that can't is named at once, not with the first row."""
        probe = [{"role": "user", "content": marker(0)}, {"role": "assistant", "content": marker(1)}]
        try:
            text = self.render(probe)
        except DataError as error:
            raise DataError(f"the tokenizer's chat template can't render a question and its answer: {error}") from error
        missing = [message["role"] for message in probe if message["content"] not in text]
        if missing:
            raise DataError(
                f"the tokenizer's chat template leaves out what the {missing[0]} says. Use a template that writes "
                "every turn's `content`."
            )
        if text != self._tokenizer.apply_chat_template(probe, chat_template=self._source, tokenize=False):
            raise DataError("the tokenizer's chat template doesn't render the same text twice. Use one that does.")

    def _plain_source(self) -> str:
        """Begins with the beginning-of-sequence token if the tokenizer puts one before ordinary text."""
        bos = self._tokenizer.bos_token_id
        adds_bos = bos is not None and self._tokenizer("a")["input_ids"][0] == bos
        return "{{ bos_token }}" + PLAIN_TEMPLATE if adds_bos else PLAIN_TEMPLATE

    @property
    def has_generation_markers(self) -> bool:
        """Whether the template itself says, by ``{% generation %}``, what the assistant wrote."""
        return _GENERATION_MARKER.search(self._source) is not None

    def render(self, messages: Sequence[Message], *, reply_next: bool = False) -> str:
        """The conversation's text; with ``reply_next`` it ends where the assistant is to begin.

        Raises:
            DataError: the template refuses the conversation (roles that don't alternate, say), fails, or doesn't end.
        """
        with self._failures_named(messages) as template:
            return template.render(self._variables(messages, reply_next))

    def render_marked(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The conversation's text and the character spans between its generation markers.

        ``apply_chat_template`` gives those only as a token mask, and that mask covers everything to the end when a
        marked part ends in a space that the tokenizer's offsets leave out. Raises DataError as :meth:`render`.
        """
        with self._failures_named(messages) as template:
            return template.render_marked(self._variables(messages, False))

    @contextmanager
    def _failures_named(self, messages: Sequence[Message]) -> Iterator["BoundedTemplate"]:
        from quatrain.data.sandbox import FAILURES, bounded

        try:
            yield bounded(self._source)
        except FAILURES as error:
            roles = ", ".join(message["role"] for message in messages[:_ROLES_SHOWN])
            more = ", …" if len(messages) > _ROLES_SHOWN else ""
            said = " ".join(str(error).split())[:_MOST_SAID]
            raise DataError(f"the chat template refuses the conversation ({roles}{more}): {said}.") from error

    def _variables(self, messages: Sequence[Message], reply_next: bool) -> dict[str, Any]:
        """What ``apply_chat_template`` gives to a template, by the same names."""
        given = [{key: value for key, value in message.items() if value is not None} for message in messages]
        for message in given:
            if "reasoning_content" in message:
                message["thinking"] = message["reasoning_content"]  # gpt-oss' name for it
        known = {"messages": given, "tools": None, "documents": None, "add_generation_prompt": reply_next}
        return self._tokenizer.special_tokens_map | known

    def adapt(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages as the template takes them: a leading system turn moves into the user's when it knows none.

        Raises:
            DataError: a turn has a role that the template leaves out.
        """
        if len(messages) > 1 and messages[0]["role"] == "system" and not self.takes("system"):
            system, first, *rest = messages
            if first["role"] == "user":
                messages = ({**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest)
        for message in messages:
            if not self.takes(message["role"]) and message["content"].strip():
                raise DataError(f"the chat template doesn't take {message['role']} turns.")
        return tuple(messages)

    def takes(self, role: str) -> bool:
        """Whether the template writes what such a turn says."""
        if role not in self._taken:
            self._taken[role] = any(self._writes(probe) for probe in _probes(role))
        return self._taken[role]

    def _writes(self, probe: Sequence[Message]) -> bool:
        try:
            return marker(0) in self.render(probe)
        except DataError:
            return False

    @cached_property
    def _taken(self) -> dict[str, bool]:
        return {"user": True, "assistant": True}

    @cached_property
    def closings(self) -> tuple[Closing, ...]:
        """The ways in which the template ends a reply: the conversation's last one, then one before it.

        The two are the same for most families. Some end the last with a token of its own (gpt-oss), some leave it open,
        and some (GLM) close none: what ends a reply there is the special token with which the next turn begins.
        """
        roles = ("user", "assistant", "user", "assistant")
        text = self.render([{"role": role, "content": marker(i)} for i, role in enumerate(roles)])
        between = text.partition(marker(1))[2].partition(marker(2))[0]
        after = text.partition(marker(3))[2]
        special = special_tokens_pattern(self._tokenizer)
        last = re.compile(f"(?:{special})+").search(after)
        closings = [Closing(after[: last.start()], last[0])] if last else []
        earlier = re.compile(special).search(between)
        if earlier and not any(between.startswith(closing.lead + closing.token) for closing in closings):
            closings.append(Closing(between[: earlier.start()], earlier[0]))
        return tuple(closings)


def special_tokens_pattern(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A pattern that matches any one of the tokenizer's special tokens, the longest that fits."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)"
