"""Dropout's settings, and its masks in plain PyTorch."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from quatrain.errors import AdapterError

NUMBERS = 1 << 15
"""How many values an element's number can take."""
GROUP = 8
"""Consecutive columns that share one call of the generator."""

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Dropout(NamedTuple):
    """What the masks of one group of adapters (those that share an input) are made of."""

    p: float
    """Probability that an element is dropped, 0 ≤ p < 1."""
    seed: Int[Tensor, "1"]
    """int64 [1] on the tensors' device, so that a captured graph draws new masks when it changes."""
    first_stream: int
    """Adapter i of the group draws from stream ``first_stream + i``, 0 ≤ stream < 2³²."""

    @property
    def threshold(self) -> int:
        """Numbers below it drop their element."""
        return round(self.p * NUMBERS)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by: 1/(1-p), for the p that 15 bits realize."""
        return NUMBERS / (NUMBERS - self.threshold)


def check_dropout(dropout: Dropout) -> None:
    if not 0 <= dropout.p < 1 or dropout.threshold == NUMBERS:
        raise AdapterError(f"lora_dropout must be at least 0 and below 1, got {dropout.p}.")
    if dropout.seed.dtype != torch.int64 or dropout.seed.numel() != 1:
        raise AdapterError(
            f"The seed of dropout must be an int64 tensor of one element, got {dropout.seed.dtype} of shape "
            f"{tuple(dropout.seed.shape)}. Make it with torch.tensor([seed], device=...)."
        )


def keep_mask(dropout: Dropout, adapter: int, rows: int, columns: int) -> Tensor:
    """bool [rows, columns], on the seed's device: which elements the group's ``adapter`` keeps."""
    device = dropout.seed.device
    groups = -(-columns // GROUP)
    t_T1 = torch.arange(rows, device=device)[:, None].expand(rows, groups)
    group_1G = torch.arange(groups, device=device)[None, :].expand(rows, groups)
    stream = torch.full_like(t_T1, dropout.first_stream + adapter)
    words = philox((group_1G, t_T1, stream, torch.zeros_like(t_T1)), dropout.seed)
    numbers = torch.stack([half & (NUMBERS - 1) for word in words for half in (word, word >> 16)], dim=-1)
    return (numbers >= dropout.threshold).view(rows, groups * GROUP)[:, :columns]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox-4x32-10. Words are int64 from 0 to 2³² - 1: PyTorch can't shift and multiply unsigned integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(_ROUNDS):
        # A product may pass 2^63 and wrap; its 64 bits are right, and the masks drop the sign.
        product0, product2 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (product2 >> 32) & _WORD ^ c1 ^ k0, product2 & _WORD
        c2, c3 = (product0 >> 32) & _WORD ^ c3 ^ k1, product0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3
