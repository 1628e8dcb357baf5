"""The tokens at which a reply is over: what training makes the model learn, and so what decoding has to stop at."""

from typing import TYPE_CHECKING

from quatrain.data.template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def reply_end_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Token ids that end a reply under the tokenizer's chat template, and its end-of-sequence token.

    The two differ for models whose tokenizer calls another token the end of a sequence than their template writes after
    a turn, as ``<|endoftext|>`` beside ``<|im_end|>``. Of a closing of several tokens the first counts.
    """
    closings = ChatTemplate(tokenizer).closings
    ends = {tokenizer.encode(closing.token, add_special_tokens=False)[0] for closing in closings}
    return ends | ({tokenizer.eos_token_id} if isinstance(tokenizer.eos_token_id, int) else set())
