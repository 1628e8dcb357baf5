"""The blocks' forward and backward as two CUDA graphs.

A small model or a short row gives the GPU less to do than Python needs to ask for it: its blocks are hundreds of
short kernels. Recorded once and replayed, they follow one another without Python. Everything that changes from one
micro-batch to the next (ids, positions, where samples end, the dropout seed) is read from tensors at fixed addresses,
and the head stays outside, because how many tokens are supervised differs each time.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quatrain.blocks.kept import Row
from quatrain.blocks.stack import BlockStack
from quatrain.ops.block_attention import Segments


class RecordedStack:
    """Records `stack` for rows of one shape.

    Args:
        embedding: ids [T] → [T, H]; recorded with the blocks.
        ids: int64 [T] on the device: an example, on which the kernels are compiled before they are recorded.
        row: the example's positions, segments and seed. Its tensors are copied to fixed addresses.
    """

    def __init__(self, stack: BlockStack, embedding: nn.Module, ids: Tensor, row: Row):
        self._stack, self._embedding = stack, embedding
        self._ids = ids.clone()
        seed = None if row.seed is None else row.seed.clone()
        self._row = Row(row.positions.clone(), Segments(row.segments.ends.clone(), row.segments.max_length), seed)
        # A zero gradient adds nothing.
        rehearse(lambda: stack.backward(torch.zeros_like(self._run_forward()), self._row))
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._forward):
            self._hidden = self._run_forward()
        self.dhidden = torch.zeros_like(self._hidden)
        """[T, H]: the caller writes the gradient of the hidden states here; `backward` overwrites it."""
        with torch.cuda.graph(self._backward, pool=self._forward.pool()):
            stack.backward(self.dhidden, self._row)

    @staticmethod
    def key(ids: Tensor, row: Row) -> tuple:
        """Rows with equal keys can share a recording."""
        return len(ids), len(row.segments.ends), row.segments.max_length, row.seed is None

    def forward(self, ids: Tensor, row: Row) -> Tensor:
        """Normalized hidden states [T, H]; valid until the next call."""
        self._ids.copy_(ids)
        self._row.positions.copy_(row.positions)
        self._row.segments.ends.copy_(row.segments.ends)
        if row.seed is not None and self._row.seed is not None:
            self._row.seed.copy_(row.seed)
        self._forward.replay()
        return self._hidden

    def backward(self) -> None:
        """Add the adapters' gradients to their `.grad`, from what is in `dhidden`."""
        self._backward.replay()

    def _run_forward(self) -> Tensor:
        self._stack.refresh()
        return self._stack.forward(self._embedding(self._ids), self._row, for_backward=True)


def rehearse(run: Callable[[], object]) -> None:
    """Do what is to be recorded once on a stream of its own, so that kernels are compiled, buffers allocated and
    libraries set up when it is recorded."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
