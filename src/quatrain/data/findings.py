"""What is odd about rows that train without an error: counted, so that their owner sees it before training does.

None of these is mended here. A text that already holds ``<s>`` gets a second one from the tokenizer; whether the first
was meant is for its owner to say, and what is trained must be what was given.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from quatrain.data.examples import Completion, Conversation, Example, Text
from quatrain.data.render import Rendered
from quatrain.data.samples import Sample
from quatrain.data.template import special_tokens_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOUBLED_BOS = "begins with the beginning-of-sequence token twice: a text holds one, and the tokenizer adds one"
NO_END = "a reply without an end token: the chat template writes none, and the model won't learn to stop there"
REPLY_LOST = "a whole reply lies beyond max_length"
SPECIAL_INSIDE = "a text holds a special token of the tokenizer, such as the end of a turn"


class Findings:
    """Counts, batch by batch, for one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._bos = tokenizer.bos_token_id
        self._special = re.compile(special_tokens_pattern(tokenizer))
        self.counts: Counter[str] = Counter()

    def look(
        self, examples: Sequence[Example], rendered: Sequence[Rendered], samples: Sequence[Sample], max_length: int
    ) -> None:
        """Count what is odd about rows, each given as its example, its text, and its tokens before they are cut."""
        for example, text, sample in zip(examples, rendered, samples, strict=True):
            self.counts.update(self._of(example, text, sample, max_length))

    def _of(self, example: Example, text: Rendered, sample: Sample, max_length: int) -> Iterator[str]:
        if self._bos is not None and sample.input_ids[:2].tolist() == [self._bos] * 2:
            yield DOUBLED_BOS
        if text.unended:
            yield NO_END
        if len(sample) > max_length and _begins_after(sample.supervised, max_length):
            yield REPLY_LOST
        if any(self._special.search(content) for content in _contents(example)):
            yield SPECIAL_INSIDE


def _begins_after(supervised: np.ndarray, cut: int) -> bool:
    """Whether a learned part begins at or behind `cut`, while another one stands before it."""
    return bool(supervised[:cut].any() and (supervised[cut:] & ~supervised[cut - 1 : -1]).any())


def _contents(example: Example) -> list[str]:
    match example:
        case Conversation(messages):
            return [message["content"] for message in messages]
        case Completion(prompt, completion):
            return [prompt, completion]
        case Text(text):
            return [text]
