"""From examples to tokens: text by the chat template, one tokenization, and a flag on every token that is learned.

The whole text is tokenized once, exactly as ``apply_chat_template(tokenize=True)`` does it, and the character spans
of the replies are carried over to tokens through the tokenizer's offsets. Tokenizing turn by turn and joining the
pieces would be simpler, but merges across the seams differ, so the model would train on token sequences that it never
sees later. A token that overlaps a learned span is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from quatrain.data.examples import Completion, Conversation, Example, Message, Text
from quatrain.data.samples import Sample
from quatrain.data.spans import find_replies, marked_replies
from quatrain.data.template import ChatTemplate
from quatrain.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


REFUSED = "refused by the chat template"
"""What rows are counted under that can't be rendered."""


def render_prompt(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of a conversation, up to where the assistant is to reply: what chat, generation and evaluation send.

    The same rendering as in training, so that for the same turns these ids begin the training sample.

    Raises:
        DataError: the chat template refuses the conversation.
    """
    return _prompt_ids(ChatTemplate(tokenizer), messages, tokenizer)


def _prompt_ids(template: ChatTemplate, messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    text = template.render(template.adapt(messages), reply_next=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Rendered:
    """A text, the character spans of it that are learned, and how it is to be tokenized."""

    text: str
    spans: list[tuple[int, int]]
    append_eos: bool
    special_tokens: bool = False
    """Whether the tokenizer adds its own (a beginning of sequence); chat templates write theirs into the text."""
    unended: int = 0
    """Replies that no end token follows, neither the template's nor the one that is appended."""


class Renderer:
    """Turns examples into samples for one tokenizer.

    Raises:
        DataError: the tokenizer can't report offsets (it isn't a fast one).
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        train_on: Literal["assistant", "all"] = "assistant",
        chat: Literal["auto", "never"] = "auto",
    ) -> None:
        if not tokenizer.is_fast:
            raise DataError(
                f"The tokenizer ({type(tokenizer).__name__}) must be a fast one, because the learned tokens are found "
                "by their character offsets. Use a model folder that has a tokenizer.json."
            )
        self._tokenizer = tokenizer
        self._learn_all = train_on == "all"
        self._completion_as_chat = chat == "auto" and bool(tokenizer.chat_template)
        self.template = ChatTemplate(tokenizer)

    def render(self, example: Example) -> Rendered:
        """The example's text with its learned spans.

        Raises:
            DataError: the chat template refuses the conversation or hides where its replies are.
        """
        match self._as_chat(example):
            case Conversation() as conversation:
                return self._render_chat(conversation)
            case Completion(prompt, completion):
                text = prompt + completion
                return Rendered(text, [(len(prompt), len(text))], append_eos=True, special_tokens=True)
            case Text(text):
                return Rendered(text, [(0, len(text))], append_eos=True, special_tokens=True)

    def prompt_ids(self, example: Example) -> list[int]:
        """Token ids of what stands before the first learned reply (nothing, for plain text)."""
        match self._as_chat(example):
            case Conversation(messages, learn_from):
                roles = [message["role"] for message in messages]
                first = roles.index("assistant", learn_from) if "assistant" in roles[learn_from:] else len(roles)
                return _prompt_ids(self.template, messages[:first], self._tokenizer) if first else []
            case Completion(prompt, _):
                ids = self._tokenizer(prompt)["input_ids"]
                return ids[:-1] if ids and ids[-1] == self._tokenizer.eos_token_id else ids
            case Text():
                return []

    def encode(self, rendered: Sequence[Rendered]) -> list[Sample]:
        """Tokenizes a batch of texts.

        Raises:
            DataError: an end-of-sequence token must be appended but the tokenizer has none.
        """
        samples: list[Sample | None] = [None] * len(rendered)
        for special_tokens in (False, True):
            chosen = [i for i, item in enumerate(rendered) if item.special_tokens == special_tokens]
            if not chosen:
                continue
            encoded = self._tokenizer(
                [rendered[i].text for i in chosen],
                add_special_tokens=special_tokens,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            for i, ids, offsets in zip(chosen, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                samples[i] = self._sample(rendered[i], ids, offsets)
        return [sample for sample in samples if sample is not None]

    def _as_chat(self, example: Example) -> Example:
        if isinstance(example, Completion) and self._completion_as_chat:
            user = {"role": "user", "content": example.prompt}
            return Conversation((user, {"role": "assistant", "content": example.completion}))
        return example

    def _render_chat(self, conversation: Conversation) -> Rendered:
        messages = self.template.adapt(conversation.messages)
        learn_from = max(0, conversation.learn_from - (len(conversation.messages) - len(messages)))
        if self.template.has_generation_markers and learn_from == 0:
            text, replies = marked_replies(self.template, messages)
        else:
            text = self.template.render(messages)
            replies = find_replies(self.template, messages, text, learn_from)
        spans = [(reply.start, reply.end) for reply in replies]
        ends_open = bool(replies) and messages[-1]["role"] == "assistant" and not replies[-1].closed
        if ends_open:
            spans[-1] = (spans[-1][0], len(text))
        unended = sum(not reply.closed for reply in replies) - ends_open
        return Rendered(text, spans, append_eos=ends_open, unended=unended)

    def _sample(self, rendered: Rendered, ids: list[int], offsets: list[tuple[int, int]]) -> Sample:
        input_ids = np.array(ids, dtype=np.int32)
        supervised = np.full(len(ids), self._learn_all)
        # Tokens that the tokenizer adds by itself have the offsets (0, 0), also at the end; keep the arrays sorted.
        starts, ends = np.maximum.accumulate(np.array(offsets, dtype=np.int64).reshape(-1, 2), axis=0).T
        for start, end in rendered.spans:
            supervised[np.searchsorted(ends, start, side="right") : np.searchsorted(starts, end, side="left")] = True
        if rendered.append_eos:
            input_ids, supervised = self._append_eos(input_ids, supervised)
        supervised[:1] = False
        return Sample(input_ids, supervised)

    def _append_eos(self, input_ids: np.ndarray, supervised: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        eos = self._tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise DataError("The tokenizer has no end-of-sequence token, so the end of a sample can't be learned.")
        if len(input_ids) == 0 or input_ids[-1] != eos:
            input_ids, supervised = np.append(input_ids, np.int32(eos)), np.append(supervised, True)
        supervised[-1] = True
        return input_ids, supervised
