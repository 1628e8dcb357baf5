"""Whether the blocks run as CUDA graphs: decided by watching one forward, not by a table of models.

Kernels are asked for much faster than they run when there is enough to do in each; then, at the end of the forward, the
GPU still has most of its queue before it. When it is done almost as soon as Python is, Python was what took the time,
and a recording pays. Its price: the memory of a recording's activations belongs to it alone.
"""

import time
from collections.abc import Iterator
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

    Attributes:
        note: what was decided and why; empty until it is.
    """

    def __init__(self, stack: BlockStack, embedding: nn.Module):
        self._stack, self._embedding = stack, embedding
        self._forwards = 0
        self._pays: bool | None = None if stack.workspace.device.type == "cuda" else False
        self._recordings: dict[tuple, RecordedStack] = {}
        self.note = ""

    def recording_of(self, ids: Tensor, row: Row) -> RecordedStack | None:
        """What to run this row with, if it is to be run recorded."""
        if not self._pays:
            return None
        if any(block.policy.offloads for block in self._stack.blocks):
            return self._refuse("activations are offloaded, which a recording can't time")
        key = RecordedStack.key(ids, row)
        if key not in self._recordings:
            if len(self._recordings) == _MOST_RECORDINGS:
                return self._refuse("rows come in too many shapes")
            try:
                self._recordings[key] = RecordedStack(self._stack, self._embedding, ids, row)
            except torch.OutOfMemoryError:
                return self._refuse("there is no memory for a recording")
        return self._recordings[key]

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around a forward; one of them decides."""
        self._forwards += 1
        if self._pays is not None or self._forwards <= _UNTIL_WARM:
            yield
            return
        torch.cuda.synchronize()
        began = time.perf_counter()
        yield
        asked = time.perf_counter()
        torch.cuda.synchronize()
        done = time.perf_counter()
        behind = (done - asked) / (done - began)
        self._pays = behind < _BEHIND
        verdict = "run as CUDA graphs" if self._pays else "aren't recorded as CUDA graphs"
        total, asking = (done - began) * 1e3, (asked - began) * 1e3
        self.note = f"the blocks {verdict}: Python needs {asking:.1f} ms of a forward's {total:.1f} ms"

    def _refuse(self, reason: str) -> None:
        self._pays, self.note = False, f"the blocks aren't recorded as CUDA graphs: {reason}"
        self._recordings.clear()
