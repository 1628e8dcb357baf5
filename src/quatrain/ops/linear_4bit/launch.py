"""How many warps the 4-bit product's kernel is started with, and when.

By measurement on an H200 (`benchmarks/results/lab/few_rows_5.txt`, `few_rows_6.txt`).
"""

from functools import cache
from typing import NamedTuple

import torch

_MEASURED = {4: (8, 64), 8: (8, 80), 16: (8, 128), 32: (4, 255)}
"""Slices, and registers of a thread, by rows of x. Many warps are what hides the memory's latency, and the registers
that they need decide how many there can be."""


class Launch(NamedTuple):
    """How a kernel is started."""

    slices: int
    registers: int
    """Of a thread."""
    early: bool
    """Programs start, and fill their tables, while the kernel before this one ends."""


@cache
def launch_for(tokens: int, programs: int, device: torch.device) -> Launch:
    """The fastest launch for so many rows of x, a power of two from 4 to 32."""
    slices, registers = _MEASURED[tokens]
    if device.type != "cuda":
        return Launch(slices, registers, early=False)
    facts = torch.cuda.get_device_properties(device)
    if tokens == 4 and programs * 16 <= facts.multi_processor_count * 32:
        slices = 16  # There is room for twice the warps.
    warps = facts.regs_per_multiprocessor // (32 * registers) // slices * slices
    # Programs that find room beside those of the kernel before take memory bandwidth from it and win nothing.
    fills = programs * slices >= 0.9 * facts.multi_processor_count * warps
    return Launch(slices, registers, early=fills and facts.major >= 9)
