"""A tokenizer's chat template as a function from messages to text, with what must be known about it.

Templates are programs from model repositories. They are only ever run by transformers' sandbox (through
``apply_chat_template``), and what one does is found out by running it on marker contents and looking where the
markers went. Matching patterns in its source would be the alternative; it breaks with the next model family.

Two things are learned so: whether the template takes a system turn (Gemma's raises, others ignore it), and which
special token ends a reply.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from quatrain.data.examples import Message
from quatrain.data.time_limit import time_limit
from quatrain.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""What a base model gets, which has no chat template: the role as a headline, and end-of-sequence after each reply."""

_GENERATION_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


PATIENCE_S = 10.0
"""Computing time for one conversation. Real templates take a ten-thousandth."""


@contextmanager
def _named_errors(messages: Sequence[Message]) -> Iterator[None]:
    """A template is a stranger's program: besides refusing a conversation it may fail in any way, or never end."""
    from jinja2 import TemplateError

    failures = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
    try:
        with time_limit(PATIENCE_S):
            yield
    except (TemplateError, TimeoutError, *failures) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"the chat template refuses the conversation ({roles}): {error}.") from error


def marker(number: int) -> str:
    """A content that no text holds (characters for private use), which survives trimming."""
    return f"\ue0a7{number}\ue0a8"


@dataclass(frozen=True)
class Closing:
    """How a template ends a reply: ``lead``, often nothing, then ``token``, a special token's text (Cohere: two)."""

    lead: str
    token: str


class ChatTemplate:
    """Renders conversations with the tokenizer's template, or with :data:`PLAIN_TEMPLATE` when it has none."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self.is_plain = not tokenizer.chat_template
        self._source = self._plain_source() if self.is_plain else tokenizer.get_chat_template()

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
            DataError: the template refuses the conversation (roles that don't alternate, say).
        """
        with _named_errors(messages):
            text = self._tokenizer.apply_chat_template(
                list(messages), chat_template=self._source, add_generation_prompt=reply_next, tokenize=False
            )
        assert isinstance(text, str)
        return text

    def render_marked(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The conversation's text and the character spans between its generation markers.

        ``apply_chat_template`` gives those only as a token mask, and that mask covers everything to the end when a
        marked part ends in a space that the tokenizer's offsets leave out; hence one level below.

        Raises:
            DataError: as :meth:`render`.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        variables: dict[str, Any] = self._tokenizer.special_tokens_map
        with _named_errors(messages):
            texts, spans = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self._source,
                return_assistant_tokens_mask=True,
                **variables,
            )
        return texts[0], [(int(start), int(end)) for start, end in spans[0]]

    def adapt(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages as the template takes them: a leading system turn moves into the user's when it knows none."""
        if len(messages) > 1 and messages[0]["role"] == "system" and not self._takes_system:
            system, first, *rest = messages
            if first["role"] == "user":
                return ({**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest)
        return tuple(messages)

    @cached_property
    def _takes_system(self) -> bool:
        probe = [{"role": "system", "content": marker(0)}, {"role": "user", "content": marker(1)}]
        try:
            return marker(0) in self.render(probe)
        except DataError:
            return False

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
        special = self._special_tokens
        last = re.compile(f"(?:{special})+").search(after)
        closings = [Closing(after[: last.start()], last[0])] if last else []
        earlier = re.compile(special).search(between)
        if earlier and not any(between.startswith(closing.lead + closing.token) for closing in closings):
            closings.append(Closing(between[: earlier.start()], earlier[0]))
        return tuple(closings)

    @cached_property
    def _special_tokens(self) -> str:
        """A pattern that matches any one of the tokenizer's special tokens, the longest that fits."""
        added = self._tokenizer.added_tokens_decoder.values()
        texts = {token.content for token in added if token.special} | set(self._tokenizer.all_special_tokens)
        return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)"
