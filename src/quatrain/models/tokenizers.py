"""The tokenizer of a base model, ready for batches.

Training needs a padding token, and many models have none. Adding one would need a new row in a 4-bit or frozen
embedding, so an existing token takes the job: the unknown token if there is one (it never stands in a sample), else
the end-of-text token. Padding is masked in attention and in the loss by position, never by its id, so the end token
is still learned where it ends a turn.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from quatrain.errors import ModelError
from quatrain.models.gguf_file import GgufFile
from quatrain.models.sources import Source, locate

log = logging.getLogger(__name__)

FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder holds files of a tokenizer, as an adapter's does that has new tokens."""
    return any((Path(folder) / name).is_file() for name in FILES)


def load_tokenizer(
    source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a hub name, a folder, or a GGUF file, with a padding token set.

    Args:
        source: As for `load_model`; weights are not downloaded.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether code that came with the model may run.

    Raises:
        ModelError: The source isn't there or has no tokenizer.
    """
    where = locate(source, revision=revision, weights=False, trust_remote_code=trust_remote_code)
    special = GgufFile(where.folder / where.gguf_file).special_tokens() if where.gguf_file else {}
    tokenizer = read_tokenizer(where, special=special, trust_remote_code=trust_remote_code)
    if tokenizer is None:
        raise ModelError(f"{source} must have a tokenizer ({FILES[0]} or another of its files); it has none.")
    return tokenizer


def read_tokenizer(
    source: Source, *, special: Mapping[str, int], trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model's weights; None if there are no files of one.

    Args:
        source: Where the files are.
        special: Token numbers by role from a GGUF file, which some versions of transformers don't read.
        trust_remote_code: Whether code that came with the model may run.

    Raises:
        ModelError: The files are there but can't be read.
    """
    gguf = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    if not gguf and not has_tokenizer(source.folder):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=trust_remote_code, **gguf)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The tokenizer of {source.name} must be readable by transformers: {error}") from error
    for role, number in special.items():
        setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(number))
    if tokenizer.pad_token_id is None:
        stand_in = tokenizer.unk_token or tokenizer.eos_token
        if stand_in is None:
            raise ModelError(f"A tokenizer must have a padding, unknown or end token; that of {source.name} has none.")
        tokenizer.pad_token = stand_in
        log.info("The tokenizer of %s has no padding token; %r pads instead.", source.name, stand_in)
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuses a tokenizer that needs more rows than the embedding has.

    Added tokens beyond the last row are only noted: some text models come with their multimodal sibling's tokenizer
    (Gemma 3 1B has an image token one past the end), whose extra tokens never occur in text.

    Args:
        tokenizer: The tokenizer.
        rows: Rows of the model's embedding.

    Raises:
        ModelError: A word of the vocabulary or a token that every sample uses lies beyond the last row.
    """
    used = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    beyond = {name: token for name, token in used.items() if token is not None and token >= rows}
    if tokenizer.vocab_size > rows or beyond:
        raise ModelError(
            f"Every token must have a row in the embedding, which has {rows}; the tokenizer's vocabulary has "
            f"{tokenizer.vocab_size} and beyond the last row lie {beyond or 'ordinary tokens'}. "
            "This tokenizer belongs to another model; put the right one beside the weights."
        )
    added = [t.content for index, t in tokenizer.added_tokens_decoder.items() if index >= rows]
    if added:
        log.warning("The embedding has no row for %s: samples that contain them are refused.", ", ".join(added))
