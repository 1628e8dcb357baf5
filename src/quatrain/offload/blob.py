"""The 4-bit weights of a block as one run of bytes, so that they travel in one copy.

A block of Llama has seven linears and each of them four tensors. Copied one by one, the scales of the scales would cost
as much as megabytes of codes: a copy takes some microseconds to start, however short it is. In a blob every tensor
starts at a multiple of 256 bytes, as the device's own allocations do, and kernels read it where it lies.
"""

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from quatrain.quantization import QuantizedTensor

ALIGNMENT = 256


class BlobLayout:
    """Where the tensors of `weights` lie in their blob; the weights themselves aren't kept."""

    def __init__(self, weights: Sequence[QuantizedTensor]):
        self._weights = [weight.to("meta") for weight in weights]
        sizes = [_aligned(tensor.nbytes) for weight in self._weights for tensor in weight.tensors().values()]
        *self._starts, self.nbytes = accumulate(sizes, initial=0)

    def weights(self, blob: Tensor) -> list[QuantizedTensor]:
        """The weights whose bytes are in `blob`, uint8 [at least nbytes], as views of it."""
        starts = iter(self._starts)

        def view(tensor: Tensor) -> Tensor:
            start = next(starts)
            return blob[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)

        return [weight.map(view) for weight in self._weights]

    def write(self, weights: Sequence[QuantizedTensor], blob: Tensor) -> list[QuantizedTensor]:
        """Copy `weights`, on any device, into `blob`. → the views there, which hold them when the device is done."""
        places = self.weights(blob)
        for weight, place in zip(weights, places, strict=True):
            for name, tensor in place.tensors().items():
                tensor.copy_(weight.tensors()[name], non_blocking=True)
        return places


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
