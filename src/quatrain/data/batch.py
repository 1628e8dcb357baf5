"""The micro-batch: samples laid out as the model's tensors, packed into one row or padded into several.

Shapes: B rows, T tokens of a row, S samples.

T repeats from batch to batch: libraries prepare code for every new shape and keep it, allocators leave holes when
shapes never repeat, and a recorded sequence of kernels (a CUDA graph) has only one. It is a multiple of 64, or, where
the loader is asked for it, always the same. The places behind the last sample of a packed row are samples of their own,
on which nothing is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from quatrain.data.samples import Sample

IGNORED = -100
"""The target where nothing is learned; PyTorch's cross-entropy leaves it out by default."""

_MULTIPLE = 64


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass gets.

    ``targets`` are already shifted: ``targets[b, t]`` is the token to predict from position ``t``, or -100; they never
    cross from one sample into the next. Padding is told by ``attention_mask`` and -100, never by a token id, because
    the padding token of many tokenizers is the end-of-sequence token, which must be learned.
    """

    input_ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    cu_seqlens: Int[Tensor, " S+1"] | None
    """int32; sample s of a packed row is the tokens ``[cu_seqlens[s], cu_seqlens[s + 1])``. None when padded."""
    attention_mask: Int[Tensor, "B T"] | None
    """1 on tokens, 0 on padding. None when packed."""
    longest: int
    """No sample has more tokens: the same number for all batches of a loader, so that nothing depends on the data."""
    num_tokens: int
    """Tokens of samples, without padding and filling."""
    num_supervised: int
    """Targets that aren't -100."""
    samples: tuple[int, ...] = ()
    """Which of the loader's samples these are, by number."""


def packed_batch(samples: Sequence[Sample], pad_token_id: int, *, tokens: int, longest: int) -> MicroBatch:
    """All samples one after the other in a single row of `tokens` tokens, positions restarting with each.

    No sample has more than `longest` tokens; what fills the row up is cut into pieces of that size too.
    """
    learnable = sum(len(sample) for sample in samples)
    samples = [*samples, *_fillers(tokens - learnable, longest, pad_token_id)]
    lengths = torch.tensor([len(sample) for sample in samples])
    targets = torch.cat([_targets(sample) for sample in samples])
    return MicroBatch(
        input_ids=torch.cat([_ids(sample) for sample in samples])[None],
        targets=targets[None],
        position_ids=torch.cat([torch.arange(len(sample)) for sample in samples])[None],
        cu_seqlens=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(torch.int32),
        attention_mask=None,
        longest=longest,
        num_tokens=learnable,
        num_supervised=int((targets != IGNORED).sum()),
    )


def padded_batch(samples: Sequence[Sample], pad_token_id: int, limit: int) -> MicroBatch:
    """One sample a row, padded on the right to the longest (and a little more, see above) but not beyond `limit`."""
    longest = max(len(sample) for sample in samples)
    shape = (len(samples), rounded(longest, limit))
    input_ids = torch.full(shape, pad_token_id)
    targets = torch.full(shape, IGNORED)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    for row, sample in enumerate(samples):
        input_ids[row, : len(sample)] = _ids(sample)
        targets[row, : len(sample)] = _targets(sample)
        attention_mask[row, : len(sample)] = 1
    return MicroBatch(
        input_ids=input_ids,
        targets=targets,
        position_ids=torch.arange(shape[1]).repeat(len(samples), 1),
        cu_seqlens=None,
        attention_mask=attention_mask,
        longest=shape[1],
        num_tokens=int(attention_mask.sum()),
        num_supervised=int((targets != IGNORED).sum()),
    )


def rounded(length: int, limit: int) -> int:
    """The next multiple of 64, or the limit where that is nearer."""
    return min(-(-length // _MULTIPLE) * _MULTIPLE, limit)


def _fillers(tokens: int, longest: int, pad_token_id: int) -> list[Sample]:
    pieces = [min(longest, tokens - start) for start in range(0, tokens, longest)]
    return [Sample(np.full(n, pad_token_id, dtype=np.int32), np.zeros(n, dtype=np.bool_)) for n in pieces]


def _ids(sample: Sample) -> Tensor:
    return torch.from_numpy(sample.input_ids.astype("int64"))


def _targets(sample: Sample) -> Tensor:
    """The next token where it is learned. The last position has no next token."""
    targets = torch.full((len(sample),), IGNORED)
    learned = torch.from_numpy(sample.supervised[1:].copy())
    targets[:-1] = torch.where(learned, _ids(sample)[1:], IGNORED)
    return targets
