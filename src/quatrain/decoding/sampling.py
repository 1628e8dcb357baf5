"""Choosing the next token of each sequence, on the device and without waiting for it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quatrain.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn from the logits."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""

    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability can be drawn (nucleus sampling, Holtzman et al.
    2019)."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ConfigError(f"temperature must be at least 0, got {self.temperature}. 0 is greedy.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie in (0, 1], got {self.top_p}. 1 leaves all tokens in.")

    def choose(self, logits_BV: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The chosen token of each row, int64 [B]."""
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        probabilities_BV = (logits_BV.float() / self.temperature).softmax(-1)
        if self.top_p < 1:
            probabilities_BV = _nucleus(probabilities_BV, self.top_p)
        return torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(1)


def _nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """The probabilities with all but the smallest set of likeliest tokens that reaches `top_p` at zero."""
    descending_BV, tokens_BV = probabilities_BV.sort(dim=-1, descending=True)
    before_BV = descending_BV.cumsum(-1) - descending_BV
    return torch.zeros_like(probabilities_BV).scatter_(-1, tokens_BV, descending_BV * (before_BV < top_p))
