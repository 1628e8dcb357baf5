"""A Hugging Face tokenizer as a GGUF file holds it.

llama.cpp has its own tokenizer. For byte-level BPE it needs the words in order, their kinds, the merges, and the name
of the rule that cuts text into pieces before any merge (`models/gguf_writable.py`).

Source: llama.cpp's `conversion/base.py`.
"""

import json
from typing import Any

from gguf import GGUFWriter, TokenType

from quatrain.models.gguf_writable import cutting_rule


def add_vocabulary(writer: GGUFWriter, tokenizer: Any, rows: int) -> None:
    """Write words, merges, special tokens and chat template.

    Args:
        tokenizer: a fast tokenizer with byte-level BPE.
        rows: of the embedding; those without a word are filled up.

    Raises:
        ModelError: the tokenizer is of another kind, or cuts text by a rule that llama.cpp isn't known to have.
    """
    rule = cutting_rule(tokenizer)
    words, kinds = _words(tokenizer, rows)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    roles = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for role, add in roles.items():
        if (number := getattr(tokenizer, f"{role}_token_id")) is not None:
            add(number)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _words(tokenizer: Any, rows: int) -> tuple[list[str], list[int]]:
    """Each row's word, and what kind of word it is."""
    by_number = {number: word for word, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    words, kinds = [], []
    for row in range(rows):
        word = by_number.get(row)
        if word is None:
            words.append(f"[PAD{row}]")
            kinds.append(TokenType.UNUSED)
            continue
        words.append(word)
        if row not in added:
            kinds.append(TokenType.NORMAL)
        else:
            kinds.append(TokenType.CONTROL if added[row].special else TokenType.USER_DEFINED)
    return words, kinds
