"""Words that a tokenizer doesn't have yet, such as marks of a format: an id, a row, and a start for the row.

The base's tables grow by rows of zeros, which nobody reads: the trained rows stand in their place and are saved with
the adapter, the tokenizer beside it. A new row starts at the mean of the rows of the pieces that the word was split
into until now, which is nearer to what it means than anything drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from quatrain.adapters import LoraConfig
from quatrain.adapters.extras import extra_layers, shares_table, table_names
from quatrain.adapters.stored_extras import grow
from quatrain.adapters.token_rows import TokenRows
from quatrain.errors import ConfigError

Pieces = Mapping[int, Sequence[int]]
"""Ids of the pieces that a token was split into, by its own id."""


def add_tokens(tokenizer: Any, tokens: Sequence[str]) -> dict[int, list[int]]:
    """Add `tokens` to `tokenizer`; one that it has stays. Returns the pieces of each.

    Raises:
        ConfigError: one is empty.
    """
    if not all(token.strip() for token in tokens):
        raise ConfigError(f"`new_tokens` must be words, found an empty one in {list(tokens)}")
    pieces = {token: tokenizer.encode(token, add_special_tokens=False) for token in tokens}
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    return {tokenizer.convert_tokens_to_ids(token): parts for token, parts in pieces.items()}


def with_rows(config: LoraConfig, model: nn.Module, pieces: Pieces) -> LoraConfig:
    """`config`, with the rows of new tokens trained too; `model` gets them.

    Raises:
        AdapterError: the model's tables are in four bits and have no rows to spare.
    """
    if not pieces:
        return config
    grow(model, 1 + max(pieces))
    embedding, head = table_names(model)
    tables = [embedding] if head is None or shares_table(model) else [embedding, head]
    asked = config.trainable_token_indices
    asked = dict(asked) if isinstance(asked, Mapping) else {embedding: asked} if asked else {}
    # A person may have named a table by the end of its name.
    rows = {next((table for table in tables if table.endswith(name)), name): tuple(of) for name, of in asked.items()}
    return replace(config, trainable_token_indices=rows | {t: (*rows.get(t, ()), *pieces) for t in tables})


@torch.no_grad()
def start_rows(model: nn.Module, pieces: Pieces) -> None:
    """Set the trained rows of new tokens to the mean of their pieces'."""
    for layer in extra_layers(model).values():
        if not isinstance(layer, TokenRows) or layer.shares:
            continue
        table_VH, places = layer.base_layer.weight, layer.token_indices.tolist()
        for token, parts in pieces.items():
            layer.trainable_tokens_delta[places.index(token)] = table_VH[list(parts)].float().mean(0)  # pyright: ignore
