"""Questions with reference answers out of a data set: the same rows and the same rendering as in training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quatrain.data.bad_rows import BadRows
from quatrain.data.config import DataConfig
from quatrain.data.examples import Completion, Conversation, Example
from quatrain.data.prepare import load_examples
from quatrain.data.render import REFUSED, Renderer
from quatrain.data.rows import Place
from quatrain.errors import DataError, RowError

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
    asked: Example
    """The whole row, before any tokenizer."""


def read_questions(
    config: DataConfig, tokenizer: "PreTrainedTokenizerBase", bad: BadRows | None = None
) -> list[Question]:
    """One question for each row: all that stands before its last reply or completion, which is the reference.

    Raises:
        DataError: the data can't be read or rendered, or a row has no reply; the message names the row. With
            ``on_bad_row: skip`` such rows are left out and counted in `bad`; that nothing is left is an error.
    """
    renderer, bad = Renderer(tokenizer, chat=config.chat), bad or BadRows(config)
    questions = []
    for where, example in load_examples(config, bad):
        try:
            questions.append(_question(renderer, where, example))
        except RowError as error:
            bad.meet(error)
    if not questions:
        reason = f"the first bad row: {bad.first[0]}" if bad.first else "its rows hold no conversation"
        raise DataError(f"{config.path}: no question is left; {reason}")
    return questions


def _question(renderer: Renderer, where: Place, example: Example) -> Question:
    match example:
        case Completion(prompt, completion):
            return Question(_prompt(renderer, where, example), prompt, completion, example)
        case Conversation(messages) if messages and messages[-1]["role"] == "assistant" and len(messages) > 1:
            last_only = Conversation(messages, learn_from=len(messages) - 1)
            asked, reference = (message["content"] for message in messages[-2:])
            return Question(_prompt(renderer, where, last_only), asked, reference, example)
        case _:
            reason = "a question needs a prompt and a reply that ends the row; plain text has none."
            raise RowError(where, "no question with a reply", reason)


def _prompt(renderer: Renderer, where: Place, example: Example) -> list[int]:
    try:
        return renderer.prompt_ids(example)
    except DataError as error:
        raise RowError(where, REFUSED, str(error)) from error
