"""Four-bit quantization in plain PyTorch.

Each block is divided by its largest magnitude, and each quotient takes the code whose value is nearest. "Nearest" is
decided by comparing with the midpoints between values, where a tie goes to the lower one.

The bytes have to be bitsandbytes', so the arithmetic follows its CPU path to the last bit: a whole block is
multiplied by the float32 reciprocal of its scale, while a last, shorter block is divided by it; scales below 1e-38
are raised to 1e-38 for that, and only the shorter block also keeps the raised scale.
"""

import torch
from torch import Tensor

from ..codebooks import ascending_codes, midpoints

SMALLEST_SCALE = 1e-38


def quantize_4bit(x: Tensor, *, quant_type: str, block_size: int) -> tuple[Tensor, Tensor]:
    """See :func:`quatrain.ops.quantize_4bit.quantize_4bit`; no argument is checked here."""
    flat = x.detach().reshape(-1).float()
    whole = flat.numel() // block_size
    blocks, rest = flat[: whole * block_size].view(whole, block_size), flat[whole * block_size :]

    scales = blocks.abs().amax(dim=1)
    quotients = (blocks * (1.0 / scales.clamp(min=SMALLEST_SCALE)).unsqueeze(1)).view(-1)
    if rest.numel():
        last_scale = rest.abs().amax().clamp(min=SMALLEST_SCALE)
        scales = torch.cat([scales, last_scale.unsqueeze(0)])
        quotients = torch.cat([quotients, rest / last_scale])
    if quotients.numel() % 2:  # the low nibble after an odd end is the code of zero
        quotients = torch.nn.functional.pad(quotients, (0, 1))
    codes = _nearest_codes(quotients, quant_type)
    return codes[::2] << 4 | codes[1::2], scales


def _nearest_codes(values: Tensor, quant_type: str) -> Tensor:
    """The uint8 code whose value is nearest to each of ``values`` [n]; beyond [-1, 1] the outermost code in use."""
    # Fifteen comparisons vectorize, a binary search (torch.bucketize) doesn't: it takes three times as long.
    rank = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for midpoint in midpoints(quant_type).tolist():
        rank += values > midpoint
    if quant_type == "fp4":
        return ascending_codes(quant_type, values.device)[rank.int()]
    return rank
