"""Whether the blocks run as CUDA graphs: decided by watching one forward, not by a table of models.

Kernels are asked for much faster than they run when there is enough to do in each; then, at the end of the forward, the
GPU still has most of its queue before it. When it is done almost as soon as Python is, Python was what took the time,
and a recording pays. Its price: the memory of a recording's activations belongs to it alone.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quatrain.blocks import BlockStack, Row
from quatrain.blocks.recorded import RecordedStack

# The first forwards compile kernels and let libraries choose theirs.
_UNTIL_WARM = 2
# The share of the time at which the GPU may be behind Python for a recording to pay.
_BEHIND = 0.15
# Rows of more shapes than this would fill the memory with recordings.
_MOST_RECORDINGS = 2


class Recorder:
    """Recordings of a stack by the shape of their rows.

    Args:
        note: told what was decided and why, a sentence for each decision.
    """

    def __init__(self, stack: BlockStack, embedding: nn.Module, note: Callable[[str], object]):
        self._stack, self._embedding, self._note = stack, embedding, note
        self._on_gpu = stack.workspace.device.type == "cuda"
        self._forwards: Counter[tuple] = Counter()
        self._pays: dict[tuple, bool] = {}
        self._recordings: dict[tuple, RecordedStack] = {}

    def recording_of(self, ids: Tensor, row: Row) -> RecordedStack | None:
        """What to run this row with; None: it runs as it is."""
        key = RecordedStack.key(ids, row)
        if self._pays.get(key) and key not in self._recordings:
            self._record(key, ids, row)
        return self._recordings.get(key)

    def forget(self) -> None:
        """Give up all recordings and their memory, and don't make them again."""
        self._pays = dict.fromkeys(self._pays, False)
        self._recordings.clear()

    @contextmanager
    def watch(self, ids: Tensor, row: Row) -> Iterator[None]:
        """Around a forward that runs as it is. The first warm one decides for all rows of this shape."""
        key = RecordedStack.key(ids, row)
        self._forwards[key] += 1
        if not self._on_gpu or key in self._pays or self._forwards[key] <= _UNTIL_WARM:
            yield
            return
        torch.cuda.synchronize()
        began = time.perf_counter()
        yield
        asked = time.perf_counter()
        torch.cuda.synchronize()
        done = time.perf_counter()
        self._pays[key] = self._decide(asked - began, done - began, tokens=len(ids))

    def _decide(self, asking: float, total: float, tokens: int) -> bool:
        """Whether a recording pays for a forward that took `total` seconds, `asking` of them in Python."""
        measured = f"Python needs {asking * 1e3:.1f} ms of the {total * 1e3:.1f} ms of a forward of {tokens} tokens"
        if (total - asking) / total >= _BEHIND:
            return self._refuse(measured)
        if any(block.policy.offloads for block in self._stack.blocks):
            return self._refuse("activations are offloaded, which a recording can't follow")
        if self._stack.weights is not None:
            return self._refuse("weights are streamed, which a recording can't follow")
        if sum(self._pays.values()) == _MOST_RECORDINGS:
            return self._refuse("rows come in too many shapes")
        self._note(f"the blocks run as CUDA graphs: {measured}")
        return True

    def _record(self, key: tuple, ids: Tensor, row: Row) -> None:
        try:
            self._recordings[key] = RecordedStack(self._stack, self._embedding, ids, row)
        except torch.OutOfMemoryError:
            self._pays[key] = self._refuse("there is no memory for that")

    def _refuse(self, reason: str) -> bool:
        self._note(f"the blocks aren't recorded as CUDA graphs: {reason}")
        return False
