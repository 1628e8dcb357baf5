"""Device buffers that all blocks share, because only one block computes at a time.

A buffer is asked for by name and shape. It holds whatever was last written under that name, so a value that must
outlive its block belongs elsewhere. Buffers grow to the largest shape asked for, and a step with fixed shapes asks for
the same ones each time: nothing is allocated after the first, which is what a CUDA graph needs.
"""

from math import prod

import torch
from torch import Tensor


class Workspace:
    """Named scratch memory of one device and one dtype."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self._flat: dict[tuple[str, torch.dtype], Tensor] = {}
        self.owners: Tensor | None = None
        """int64 [T]: which row of the batch each token of the packed row at hand is from; only products whose rows have
        adapters of their own ask for it."""

    def clear(self) -> None:
        """Give all buffers up."""
        self._flat.clear()

    def get(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous uninitialized tensor of `shape`; the one that had this name is overwritten."""
        key, numel = (name, dtype or self.dtype), prod(shape)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < numel:
            # The old buffer goes first: both at once would be the step's peak.
            self._flat.pop(key, None)
            flat = None
            flat = self._flat[key] = torch.empty(numel, device=self.device, dtype=key[1])
        return flat[:numel].view(shape)
