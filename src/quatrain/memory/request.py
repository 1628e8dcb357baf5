"""What a plan is asked for: a model, a device, a budget, and what is decided already."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from quatrain.memory.card import Card
from quatrain.memory.shape import ModelShape
from quatrain.memory.step import Policy

Paging = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run to be planned."""

    model: ModelShape
    card: Card
    budget: int
    """Bytes of the device that the process may take."""
    host: int
    """Bytes of pinned host memory that it may take."""
    max_length: int
    """Tokens of the longest sample."""
    rows: int
    """Rows of `max_length` tokens in an optimizer step."""
    rows_at_once: tuple[int, ...]
    """How many of them a micro-batch may have; one value, or divisors of `rows`."""
    policies: Mapping[str, Policy]
    """What blocks may keep, by name, from the fastest to the most frugal; the only one, if it is decided."""
    inexact: Mapping[str, Policy] = field(default_factory=dict)
    """The same with policies that the settings rule out because they change gradients; empty if there are none."""
    state_bits: int = 8
    """Of AdamW."""
    paging: Paging = "auto"
    own_blocks: bool = True
    """Whether our own blocks compute; otherwise the model's modules do, through autograd."""
    may_stream: bool = True
    disk: float = 2e9
    """Bytes a second that a disk reads."""

    @property
    def engine(self) -> bool:
        """Whether bytes are those of our own blocks."""
        return self.own_blocks and self.model.fused

    @property
    def with_inexact(self) -> "Request":
        """As if nothing was ruled out."""
        return replace(self, policies=self.inexact or self.policies)
