"""Ways of combining tensors of several adapters into one, by the names of PEFT's `add_weighted_adapter`.

Each name is a choice in three questions. *Where* are tensors combined: A and B each by itself (cheap, and rough: the
product of sums has cross terms), the updates B A themselves (then cut to a rank again), or not at all, the adapters
being laid side by side (exact, of higher rank). *What is dropped* before: nothing, the smallest elements, or random
ones. And *who counts* where signs disagree: everybody, or those of the majority's sign.

Sources: task arithmetic, Ilharco et al. 2022 (arXiv 2212.04089); TIES, Yadav et al. 2023 (arXiv 2306.01708); DARE, Yu
et al. 2023 (arXiv 2311.03099). PEFT elects signs before the weights are applied, and so do we.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quatrain.errors import ConfigError

MajoritySignMethod = Literal["total", "frequency"]


@dataclass(frozen=True)
class Method:
    """What one name stands for."""

    where: Literal["halves", "updates", "side by side"]
    drop: Literal["nothing", "smallest", "random"] = "nothing"
    elect: bool = False
    """Whether only elements of the majority's sign count."""


COMBINATION_TYPES = {
    "linear": Method("halves"),
    "cat": Method("side by side"),
    "svd": Method("updates"),
    "ties": Method("halves", "smallest", elect=True),
    "ties_svd": Method("updates", "smallest", elect=True),
    "dare_linear": Method("halves", "random"),
    "dare_ties": Method("halves", "random", elect=True),
    "dare_linear_svd": Method("updates", "random"),
    "dare_ties_svd": Method("updates", "random", elect=True),
    "magnitude_prune": Method("halves", "smallest"),
    "magnitude_prune_svd": Method("updates", "smallest"),
}
"""By PEFT's `combination_type`."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How adapters are combined; the fields are arguments of PEFT's `add_weighted_adapter`.

    Raises:
        ConfigError: a name that isn't there, or a setting that the method lacks or doesn't use.
    """

    combination_type: str = "svd"
    """One of `COMBINATION_TYPES`."""
    svd_rank: int | None = None
    """Rank of the result of the methods that end in an SVD. None: the largest of the adapters'."""
    density: float | None = None
    """Share of the elements that the dropping methods keep, in (0, 1]."""
    majority_sign_method: MajoritySignMethod = "total"
    """Whether the majority is that of the sum or of the count."""
    seed: int = 0
    """Draws what DARE drops."""

    def __post_init__(self) -> None:
        if self.combination_type not in COMBINATION_TYPES:
            names = ", ".join(COMBINATION_TYPES)
            raise ConfigError(f"`combination_type` must be one of {names}; found {self.combination_type!r}")
        method, name = self.method, self.combination_type
        if method.drop == "nothing" and self.density is not None:
            raise ConfigError(f"`density` is for methods that drop elements, and {name!r} keeps all; leave it out")
        if method.drop != "nothing" and (self.density is None or not 0 < self.density <= 1):
            raise ConfigError(
                f"{name!r} keeps a share of the elements: `density` must lie in (0, 1], found {self.density}"
            )
        if method.where != "updates" and self.svd_rank is not None:
            raise ConfigError(f"`svd_rank` is for methods that end in an SVD, and {name!r} doesn't; leave it out")
        if self.svd_rank is not None and self.svd_rank < 1:
            raise ConfigError(f"`svd_rank` must be at least 1, found {self.svd_rank}")
        if self.majority_sign_method not in ("total", "frequency"):
            raise ConfigError(
                f"`majority_sign_method` must be 'total' or 'frequency', found {self.majority_sign_method!r}"
            )

    @property
    def method(self) -> Method:
        return COMBINATION_TYPES[self.combination_type]

    def of(self, tensors: Sequence[Tensor], weights: Sequence[float], generator: torch.Generator) -> Tensor:
        """One tensor from several of its shape."""
        kept = torch.stack([self._kept(tensor, generator) for tensor in tensors])
        factors = torch.tensor(list(weights), dtype=kept.dtype).view(-1, *[1] * tensors[0].ndim)
        weighted = kept * factors
        if not self.method.elect:
            return weighted.sum(0)
        counted = kept.sign() == self._majority(kept)
        return (weighted * counted).sum(0) / counted.sum(0).clamp(min=1)

    def _kept(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        if self.density is None or self.density == 1:
            return tensor
        if self.method.drop == "smallest":
            return _largest(tensor, int(self.density * tensor.numel()))
        mask = torch.bernoulli(torch.full_like(tensor, self.density), generator=generator)
        return tensor * mask / self.density

    def _majority(self, stacked: Tensor) -> Tensor:
        votes = stacked if self.majority_sign_method == "total" else stacked.sign()
        return torch.where(votes.sum(0) >= 0, 1, -1)


def _largest(tensor: Tensor, count: int) -> Tensor:
    """The `count` elements that are largest in size, zeros elsewhere."""
    flat = tensor.reshape(-1)
    chosen = flat.abs().topk(count).indices
    return torch.zeros_like(flat).index_copy_(0, chosen, flat[chosen]).view_as(tensor)
