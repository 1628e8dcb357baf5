"""The values that 4-bit and 8-bit codes stand for, and the thresholds at which a code gives way to the next.

A codebook is a table: code ``i`` means ``table[i] · scale``, where the scale is the largest magnitude of the block. All
tables lie in [-1, 1] (INT4's unused code apart), so a block's largest value is kept exactly.

**NF4** (QLoRA, Dettmers et al. 2023, section 3 and appendix E) has as its values quantiles of the standard normal,
because trained weights are close to normal within a block: every code is then used about equally often. A symmetric
set of 16 quantiles would have no zero, and zeros must stay zeros, so the two sides are built apart: an exact zero, 8
quantiles above it and 7 below. :func:`normal_float_values` computes them; the constants below are the float32 numbers
that existing checkpoints were made with, and they are what counts for the bytes.

**FP4** is a tiny floating point number, sign, two exponent bits, one mantissa bit (E2M1); the exponent is stored in an
order of its own, so codes don't ascend with values, and there are two zeros.

**INT4** is the plain uniform grid that QLoRA compares against: code ``i`` is the integer ``i - 8``, over 7. Scales
come from the largest magnitude, so -8 is never produced, and the grid in use is symmetric with an exact zero.

**The dynamic map** (Dettmers, "8-bit Approximations for Parallelism in Deep Learning", 2016) spends its bits on a
moving border between exponent and fraction: precise near one, and still resolving magnitudes near 1e-6. It holds the
scales of the scales (double quantization) and 8-bit optimizer state.
"""

from functools import cache
from statistics import NormalDist

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from quatrain.errors import QuantizationError

QUANT_TYPES = ("nf4", "fp4", "int4")

_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# Codes 0–7, over the largest; codes 8–15 are their negatives.
_FP4_MAGNITUDES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
# FP4's codes from the smallest value to the largest. Zero has two codes, 0 before 8: the smallest positive values
# round to 8.
_FP4_ASCENDING = (11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3)


@cache
def codebook(quant_type: str, device: torch.device | str = "cpu") -> Float[Tensor, "16"]:
    """The float32 value of each 4-bit code. The tensor is shared: don't write into it.

    Tables are always computed on the CPU, so that neither ``torch.device("meta")`` contexts nor a GPU's arithmetic
    touch them. Raises QuantizationError if ``quant_type`` isn't one of :data:`QUANT_TYPES`.
    """
    if quant_type == "nf4":
        values = torch.tensor(_NF4, device="cpu")
    elif quant_type == "fp4":
        magnitudes = torch.tensor(_FP4_MAGNITUDES, device="cpu")
        values = torch.cat([magnitudes, -magnitudes]) / magnitudes.max()
        values[8] = 0.0  # the second zero is a positive one too
    elif quant_type == "int4":
        values = torch.arange(-8, 8, dtype=torch.float32, device="cpu") / 7
    else:
        raise QuantizationError(f"quant_type must be one of {', '.join(QUANT_TYPES)}, got {quant_type!r}.")
    return values.to(device)


@cache
def ascending_codes(quant_type: str, device: torch.device | str = "cpu") -> UInt8[Tensor, "16"]:
    """The 16 codes (uint8) ordered by the value that they stand for."""
    order = _FP4_ASCENDING if quant_type == "fp4" else range(16)
    return torch.tensor(order, dtype=torch.uint8, device=device)


@cache
def midpoints(quant_type: str, device: torch.device | str = "cpu") -> Float[Tensor, "15"]:
    """Where one 4-bit code gives way to the next, ascending; a value that lies on a midpoint takes the lower code."""
    ascending = codebook(quant_type)[ascending_codes(quant_type).long()]
    return ((ascending[:-1] + ascending[1:]) / 2).to(device)


def normal_float_values(offset: float = 0.9677083) -> Float[Tensor, "16"]:
    """NF4's values from their definition: quantiles of the normal distribution around an exact zero, scaled to [-1, 1].

    ``offset`` is the probability at which the outermost value sits. A quantile of 1 would be infinite; QLoRA takes the
    mean of the last bin's centre in a set of 15 and in a set of 16 values, ``1 - (1/30 + 1/32) / 2 = 0.9677083``.
    """
    quantile = NormalDist().inv_cdf

    def side(steps: int) -> list[float]:
        """``steps`` quantiles at evenly spaced probabilities from ``offset`` down to, but without, the median."""
        return [quantile(offset + (0.5 - offset) * i / steps) for i in range(steps)]

    values = sorted([*side(8), 0.0, *(-q for q in side(7))])
    return torch.tensor([v / values[-1] for v in values], dtype=torch.float32, device="cpu")


@cache
def dynamic_map(signed: bool = True, device: torch.device | str = "cpu") -> Float[Tensor, "256"]:
    """The 256 ascending float32 values of the 8-bit dynamic map, in [-1, 1] or (unsigned) in [0, 1].

    Decade ``e`` (0 to 6) covers (0.1, 1)·10^(e-6) with 2^e values, or 2^(e+1) without a sign bit, at the centres of
    equal bins; zero and one are added. The order of the float32 operations is part of the format.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        bins = 2 ** (exponent if signed else exponent + 1)
        edges = torch.linspace(0.1, 1, bins + 1, dtype=torch.float32, device="cpu")
        centres = (10 ** (exponent - 6)) * ((edges[:-1] + edges[1:]) / 2.0)
        values += centres.tolist()
        if signed:
            values += (-centres).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)
