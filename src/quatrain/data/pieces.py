"""A micro-batch cut into smaller ones at the ends of samples, for a device that couldn't hold the whole.

The pieces hold the same samples, none of them cut, so the sums of their losses and gradients are the whole one's.
"""

from bisect import bisect_left
from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from quatrain.data.batch import IGNORED, MicroBatch


def pieces(batch: MicroBatch, most: int) -> list[MicroBatch]:
    """`batch` in at most `most` pieces, as equal as its samples allow, without those on which nothing is learned."""
    ends = batch.cu_seqlens
    bounds = list(range(len(batch.input_ids) + 1)) if ends is None else ends.tolist()
    cuts = sorted({0, bounds[-1], *(_nearest(bounds, bounds[-1] * part / most) for part in range(1, most))})
    made = [_piece(batch, bounds, start, stop) for start, stop in pairwise(cuts)]
    return [piece for piece in made if piece.num_supervised]


def _nearest(bounds: list[int], place: float) -> int:
    after = bisect_left(bounds, place)
    return min(bounds[max(0, after - 1) : after + 1], key=lambda bound: abs(bound - place))


def _piece(batch: MicroBatch, bounds: list[int], start: int, stop: int) -> MicroBatch:
    """Tokens `start` to `stop` of a packed row, or those rows of a padded batch."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[start:stop] if batch.cu_seqlens is None else tensor[:, start:stop]

    ends = batch.cu_seqlens
    if ends is not None:
        ends = ends[bounds.index(start) : bounds.index(stop) + 1] - start
    mask = None if batch.attention_mask is None else cut(batch.attention_mask)
    targets = cut(batch.targets)
    return replace(
        batch,
        input_ids=cut(batch.input_ids),
        targets=targets,
        position_ids=cut(batch.position_ids),
        cu_seqlens=ends,
        longest=min(batch.longest, targets.shape[1]),
        attention_mask=mask,
        num_tokens=targets.numel() if mask is None else int(mask.sum()),
        num_supervised=int((targets != IGNORED).sum()),
    )
