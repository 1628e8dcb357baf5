"""Starts that are drawn at random and leave the layer computing what its base computes.

Sources: Kaiming and gaussian, ``LoraLayer.reset_lora_parameters`` of PEFT 0.21; orthogonal, ``orthogonal_init`` there,
after https://datta0.github.io/posts/rethink-lora-init/.
"""

import math

import torch
from torch import Tensor

from quatrain.errors import AdapterError

# The size of orthogonal A and B; PEFT's.
_ORTHOGONAL_SCALE = 0.1


def draw(
    name: bool | str, *, r: int, inputs: int, outputs: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """(A [r, inputs], B [outputs, r]) in float32 on the CPU.

    Raises:
        AdapterError: the rank is odd, which "orthogonal" can't split.
    """
    if name == "orthogonal":
        return _orthogonal(r, inputs, outputs, generator)
    a_RI = torch.empty(r, inputs)
    if name == "gaussian":
        a_RI.normal_(std=1 / r, generator=generator)
    else:
        bound = 1 / math.sqrt(inputs)  # Kaiming uniform with a = √5
        a_RI.uniform_(-bound, bound, generator=generator)
    return a_RI, torch.zeros(outputs, r)


def _orthogonal(r: int, inputs: int, outputs: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A from every other row of a random rotation and B from those between, so that B A is zero and neither is."""
    if r % 2:
        raise AdapterError(f"init_lora_weights='orthogonal' splits the rank in halves: `r` must be even, found {r}")
    rotation_RR, _ = torch.linalg.qr(torch.randn(r, r, generator=generator))
    a_RI = (torch.randn(inputs, r // 2, generator=generator) @ rotation_RR[0::2]).T
    b_OR = torch.randn(r // 2, outputs, generator=generator).T @ rotation_RR[1::2]
    return a_RI.contiguous() * _ORTHOGONAL_SCALE, b_OR * _ORTHOGONAL_SCALE
