"""Attention for packed rows, offered to transformers under a name of our own through its public registry.

A model asked for this implementation builds no mask at all and calls :func:`packed_attention_forward` with the row's
sample lengths, which travel as a keyword argument of the forward. Generation and padded batches keep using the model's
standard implementation, so the two are switched per phase, see :func:`attention`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import EllipsisType

from torch import Tensor, nn
from transformers import AttentionInterface

from quatrain.errors import ModelError
from quatrain.ops.packed_attention import packed_attention

NAME = "quatrain_packed"
# Features that some models pass to their attention and that the packed operation doesn't compute.
_UNSUPPORTED = ("position_bias", "s_aux", "cache")


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | EllipsisType | None = ...,
    softcap: float | None = None,
    packed_lengths: tuple[int, ...] | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query [1, Hq, T, D], key and value [1, Hkv, T, D] → [1, T, Hq, D].

    Raises:
        ModelError: the model doesn't hand on `packed_lengths`, or asks for something that isn't computed here.
    """
    if packed_lengths is None or attention_mask is not None or query.shape[0] != 1:
        raise ModelError("packed attention needs one row without a mask, and its sample lengths")
    if foreign := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
        raise ModelError(f"packed attention doesn't compute {', '.join(foreign)}")
    out = packed_attention(
        query[0],
        key[0],
        value[0],
        packed_lengths,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=_window(module, sliding_window),
        softcap=softcap,
        dropout=dropout,
    )
    return out.transpose(0, 1).unsqueeze(0).contiguous(), None


def _window(module: nn.Module, said: int | EllipsisType | None) -> int | None:
    """The layer's window as the model hands it over.

    Some models only draw their window (or chunks) into the mask, which packed rows don't have: those must not run here.
    """
    config = getattr(module, "config", None)
    if getattr(config, "attention_chunk_size", None) is not None:
        raise ModelError("packed attention doesn't compute attention in chunks")
    if isinstance(said, EllipsisType):
        if getattr(config, "sliding_window", None) is not None:
            raise ModelError("the model has a sliding window, but doesn't hand it to its attention")
        return None
    return said


AttentionInterface.register(NAME, packed_attention_forward)


@contextmanager
def attention(model: nn.Module, implementation: str) -> Iterator[None]:
    """Run `model` with another attention implementation inside the block."""
    before = model.config._attn_implementation  # pyright: ignore
    if before == implementation:
        yield
        return
    model.set_attn_implementation(implementation)  # pyright: ignore
    try:
        yield
    finally:
        model.set_attn_implementation(before)  # pyright: ignore
