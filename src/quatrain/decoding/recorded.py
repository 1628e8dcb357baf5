"""A decoding step as a CUDA graph.

A step of 32 blocks is some 300 kernels of a few microseconds, which Python could not ask for in time. Recorded once,
they follow one another by themselves. What changes from step to step, the tokens and the lengths, lies at fixed
addresses; the step itself counts the lengths up.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from quatrain.blocks.recorded import rehearse


class RecordedStep:
    """Records `step`, which maps tokens int64 [B] to logits [B, V], for `rows` sequences.

    Recording runs the step once, on whatever the cache holds; `lengths` is put back to zero afterwards.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], rows: int, lengths: Tensor):
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=lengths.device)
        lengths.zero_()
        rehearse(lambda: step(self._tokens))
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = step(self._tokens)
        lengths.zero_()

    def __call__(self, tokens_B: Tensor) -> Tensor:
        """Logits [B, V]; valid until the next call."""
        self._tokens.copy_(tokens_B)
        self._graph.replay()
        return self._logits
