"""Eight-bit quantization with the dynamic map in plain PyTorch.

Each block is divided by its largest magnitude, and each quotient takes the code with the nearest value: a search among
the 255 thresholds at which one code gives way to the next.

The thresholds aren't the midpoints between neighbouring values. bitsandbytes' CPU library, whose bytes these have to
be, rounds a quotient to a grid of 65,536 positions over [-1, 1] and looks the code up there. Every float32 quotient
therefore has a fixed code, and the codes ascend, so the whole procedure is again a search among thresholds; they are
found once, by bisection (:func:`thresholds`). Near zero the grid is coarser than the map, so a few of the smallest
values are never used: bitsandbytes' CUDA kernel, which has no grid, differs there, in about one code of a thousand.
"""

from functools import cache

import torch
from torch import Tensor

from ..codebooks import dynamic_map

GRID = 65535


def quantize_8bit(x: Tensor, *, block_size: int, signed: bool, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.quantize_8bit.quantize_8bit`; no argument is checked here."""
    flat = x.detach().reshape(-1).float()
    if offset is not None:
        flat = flat - offset
    short = -flat.numel() % block_size
    blocks = torch.nn.functional.pad(flat, (0, short)).view(-1, block_size)
    scales = blocks.abs().amax(dim=1)
    # A block of zeros gives 0 · inf. It takes code 0, as in bitsandbytes; any code would do, its scale is zero.
    quotients = (blocks * (1.0 / scales).unsqueeze(1)).nan_to_num_(nan=-1.0)
    codes = torch.bucketize(quotients, thresholds(signed, x.device), out_int32=True, right=True).to(torch.uint8)
    return codes.view(-1)[: flat.numel()], scales


@cache
def thresholds(signed: bool, device: torch.device | str = "cpu") -> Tensor:
    """The smallest float32 quotient [255] that takes a code above 0, above 1, … above 254, found by bisection.

    The search runs over integers that order all floats of [-1, 1]: the bit pattern of the magnitude, with the sign.
    """
    one = 0x3F800000
    passed = torch.arange(255, device="cpu")
    low, high = torch.full_like(passed, -one), torch.full_like(passed, one)
    while (high - low > 1).any():
        middle = (low + high).div(2, rounding_mode="floor")
        above = _code_on_grid(_float_at(middle), signed) > passed
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return _float_at(high).to(device)


def _float_at(order: Tensor) -> Tensor:
    magnitude = order.abs().to(torch.int32).view(torch.float32)
    return torch.where(order < 0, -magnitude, magnitude)


def _code_on_grid(quotient: Tensor, signed: bool) -> Tensor:
    """The code of float32 quotients in [-1, 1]: rounded to the grid, then nearest in the map, a tie to the lower."""
    half = (quotient + 1.0) * 0.5
    # One rounding for product and sum, as a fused multiply-add does it: both are exact in float64.
    position = (half.double() * GRID + 0.5).float().floor()
    value = (position + position) / GRID - 1.0
    table = dynamic_map(signed)
    return torch.bucketize(value, (table[:-1] + table[1:]) * 0.5)
