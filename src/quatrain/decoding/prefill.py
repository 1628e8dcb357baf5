"""Reading prompts: all their tokens in packed rows through the blocks, keys and values into the cache.

The blocks are those that train, with nothing kept. Prompts lie end to end in a row, each its own sample, so none is
padded to another's length; a row takes as many prompts as fit into `_TOKENS`.

Legend: T tokens of a row, P prompts of a row, H hidden, G key/value heads, D head size.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from quatrain.blocks import Row
from quatrain.blocks.block import DecoderBlock
from quatrain.blocks.kept import Kept, there
from quatrain.decoding.cache import Cache
from quatrain.ops.block_attention import Segments

_TOKENS = 8192


def prefill(
    blocks: Sequence[DecoderBlock], embedding, prompts: Sequence[Sequence[int]], cache: Cache
) -> tuple[Tensor, Tensor]:
    """Fill `cache` with `prompts`, one a row from the first on, and set its lengths.

    Returns (residual, branch) [prompts, H] of each prompt's last token behind the last block.
    """
    device = cache.lengths.device
    ends = []
    for first, chosen in _rows_of(prompts):
        ids_T, rows_T, row = _packed(chosen, first, device)
        blocks[0].workspace.owners = rows_T
        residual_TH, branch_TH = embedding(ids_T), None
        for index, block in enumerate(blocks):
            kept = Kept()
            residual_TH, branch_TH = block.forward(residual_TH, branch_TH, row, kept)
            _, k_TGD, v_TGD = block.roped(there(kept.qkv), row)
            cache.write(index, rows_T, row.positions, k_TGD, v_TGD)
        last_P = row.segments.ends[1:] - 1
        ends.append((residual_TH[last_P], there(branch_TH)[last_P]))
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    cache.lengths[: len(prompts)] = lengths
    residuals, branches = zip(*ends, strict=True)
    return torch.cat(residuals), torch.cat(branches)


def _rows_of(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[Sequence[int]]]]:
    """(number of the first prompt, prompts) of each row."""
    first, chosen = 0, []
    for number, prompt in enumerate(prompts):
        if chosen and sum(map(len, chosen)) + len(prompt) > _TOKENS:
            yield first, chosen
            first, chosen = number, []
        chosen.append(prompt)
    yield first, chosen


def _packed(prompts: list[Sequence[int]], first: int, device: torch.device) -> tuple[Tensor, Tensor, Row]:
    """(ids [T], cache row of each token [T], the row as blocks see it)."""
    lengths = [len(prompt) for prompt in prompts]
    ids = torch.tensor([token for prompt in prompts for token in prompt])
    rows = torch.arange(first, first + len(prompts)).repeat_interleave(torch.tensor(lengths))
    positions = torch.cat([torch.arange(length) for length in lengths])
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    ids, rows, positions, ends = (tensor.to(device) for tensor in (ids, rows, positions, ends))
    return ids, rows, Row(positions, Segments(ends, max(lengths)), None)
