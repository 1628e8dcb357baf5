"""The product B A without ever making it: its norm, its singular values, its best approximation of a lower rank.

With B = Q_B R_B and Aᵀ = Q_A R_A (QR decompositions), B A = Q_B (R_B R_Aᵀ) Q_Aᵀ, and the middle is only as large as the
rank. Its singular values are those of the product. For a layer of 4096 × 14336 and rank 64 that is a decomposition of
64 × 64 instead of one that takes minutes. All in float64, since a difference of two nearly equal adapters is small.

Legend: R rank, K rank of the result, I inputs, O outputs.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from quatrain.adapters.decompositions import leading_directions
from quatrain.adapters.low_rank import LowRank

EXACT_SIDE = 1024
"""Matrices whose shorter side is longer aren't decomposed in full, which takes a time with the cube of it."""
_EXTRA, _ROUNDS = 16, 6
"""Directions beyond the rank, which make its last one sharp, and rounds for them."""


class Factors(NamedTuple):
    """B [O, R] and A [R, I], whose product is the update, scale and weight included."""

    b_OR: Tensor
    a_RI: Tensor

    @property
    def rank(self) -> int:
        return len(self.a_RI)

    def layer(self) -> LowRank:
        """As a layer of scale 1."""
        b_OR, a_RI = self.b_OR.float().contiguous(), self.a_RI.float().contiguous()
        return LowRank(a_RI=a_RI, b_OR=b_OR, lora_alpha=self.rank)


def factors_of(layer: LowRank, weight: float = 1.0) -> Factors:
    """A layer's update times `weight`, in float64."""
    return Factors(layer.b_OR.double() * (layer.scaling * weight), layer.a_RI.double())


def added(terms: list[Factors]) -> Factors:
    """The exact sum: its rank is the sum of the ranks."""
    return Factors(torch.cat([term.b_OR for term in terms], dim=1), torch.cat([term.a_RI for term in terms]))


def minus(one: Factors, other: Factors) -> Factors:
    """The exact difference."""
    return added([one, Factors(-other.b_OR, other.a_RI)])


def singular_values(factors: Factors) -> Tensor:
    """Of the product, descending; at most as many as the rank."""
    r_b, r_a = (torch.linalg.qr(half, mode="r").R for half in (factors.b_OR, factors.a_RI.T))
    return torch.linalg.svdvals(r_b @ r_a.T)


def norm(factors: Factors) -> float:
    """Frobenius norm of the product."""
    return float(singular_values(factors).square().sum().sqrt())


def truncated(factors: Factors, rank: int) -> Factors:
    """The nearest product of this rank (Eckart and Young 1936), with orthonormal rows in A and the size in B.

    A rank that the product doesn't have is filled up with fresh directions: rows of A as a new adapter has them, and
    zeros in B, so that they change nothing and training can take them up.
    """
    (q_b, r_b), (q_a, r_a) = torch.linalg.qr(factors.b_OR), torch.linalg.qr(factors.a_RI.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _filled(q_b @ (u[:, :rank] * s[:rank]), vh[:rank] @ q_a.T, rank)


def _filled(b_OK: Tensor, a_KI: Tensor, rank: int) -> Factors:
    missing = rank - len(a_KI)
    if missing <= 0:
        return Factors(b_OK, a_KI)
    bound = 1 / math.sqrt(a_KI.shape[1])
    fresh = torch.empty(missing, a_KI.shape[1], dtype=a_KI.dtype)
    fresh.uniform_(-bound, bound, generator=torch.Generator().manual_seed(0))
    fresh = fresh.to(a_KI.device)
    return Factors(torch.cat([b_OK, b_OK.new_zeros(len(b_OK), missing)], dim=1), torch.cat([a_KI, fresh]))


def nearest(delta_OI: Tensor, rank: int) -> Factors:
    """The nearest product of this rank to a whole matrix."""
    if min(delta_OI.shape) <= EXACT_SIDE:
        u, s, vh = torch.linalg.svd(delta_OI, full_matrices=False)
    else:
        width = min(rank + max(rank, _EXTRA), *delta_OI.shape)
        u, s, vh = leading_directions(delta_OI, width, rounds=_ROUNDS)
    return _filled((u[:, :rank] * s[:rank]).double(), vh[:rank].double(), rank)
