"""Questions with reference answers out of a data set: the same rows and the same rendering as in training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quatrain.data.config import DataConfig
from quatrain.data.examples import Completion, Conversation, Example
from quatrain.data.prepare import load_examples
from quatrain.data.render import Renderer
from quatrain.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Question:
    """What the model is asked, and what it should answer."""

    prompt_ids: list[int]
    """Token ids up to where the answer begins."""
    text: str
    """The last user turn or the prompt, for a person."""
    reference: str


def read_questions(config: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> list[Question]:
    """One question for each row: all that stands before its last reply or completion, which is the reference.

    Raises:
        DataError: the data can't be read or rendered, or a row has no reply; the message names the row.
    """
    renderer = Renderer(tokenizer, chat=config.chat)
    return [_question(renderer, where, example) for where, example in load_examples(config)]


def _question(renderer: Renderer, where: str, example: Example) -> Question:
    match example:
        case Completion(prompt, completion):
            return Question(renderer.prompt_ids(example), prompt, completion)
        case Conversation(messages) if messages and messages[-1]["role"] == "assistant" and len(messages) > 1:
            last_only = Conversation(messages, learn_from=len(messages) - 1)
            return Question(renderer.prompt_ids(last_only), messages[-2]["content"], messages[-1]["content"])
        case _:
            raise DataError(f"{where}: a question needs a prompt and a reply that ends the row; plain text has none.")
