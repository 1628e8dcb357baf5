"""What a block's forward leaves for its backward. T tokens, H hidden, A heads of size D, F feed-forward, R rank."""

from dataclasses import dataclass, fields
from typing import NamedTuple

from torch import Tensor

from quatrain.blocks.policy import GROUPS, Policy
from quatrain.ops.block_attention import Segments
from quatrain.ops.gated_activation import EightBits

GROUP_MEMBERS = {
    "x": ("x", "mlp_out"),
    "qkv": ("qkv", "h_qkv"),
    "attention": ("o", "lse"),
    "x2": ("x2", "attention_out"),
    "gate_up": ("gate_up", "gate_up_codes", "gate_up_scales", "h_gate_up", "h_down"),
}
"""The tensors of each group of a `Policy`."""


class Row(NamedTuple):
    """One packed row of tokens, as every block sees it."""

    positions: Tensor
    """int64 [T], from 0 in each sample."""
    segments: Segments
    """Where each sample ends."""
    seed: Tensor | None
    """int64 [1] that draws LoRA's dropout masks, the same in forward and backward; None: no dropout."""


@dataclass
class Kept:
    """Tensors of one block; None where a tensor isn't there (yet)."""

    x: Tensor | None = None
    """[T, H] the residual stream before attention."""
    qkv: Tensor | None = None
    """[T, (A + 2G)·D], q and k after the rotary embedding, or before their norm where they have one."""
    h_qkv: Tensor | None = None
    """[T, R] x·Aᵀ of the adapters on q, k and v."""
    o: Tensor | None = None
    """[T, A·D + R] attention's output; behind it o·Aᵀ."""
    lse: Tensor | None = None
    """Attention's log-sum-exp, in its backend's layout."""
    attention_out: Tensor | None = None
    """[T, H] output projection of attention, only where a norm follows it."""
    x2: Tensor | None = None
    """[T, H] the residual stream before the MLP."""
    gate_up: Tensor | None = None
    """[T, 2F]."""
    gate_up_codes: Tensor | None = None
    """[T, 2F] the same in 8 bits, where the policy wants that."""
    gate_up_scales: Tensor | None = None
    """Its scales."""
    h_gate_up: Tensor | None = None
    """[T, R]."""
    h_down: Tensor | None = None
    """[T, R]."""
    mlp_out: Tensor | None = None
    """[T, H] output of the MLP, only where a norm follows it."""

    def drop(self, group: str) -> None:
        """Forget the tensors of a policy's group."""
        for name in GROUP_MEMBERS[group]:
            setattr(self, name, None)

    def follow(self, policy: Policy) -> None:
        """Forget what `policy` doesn't keep, after a forward."""
        for group in GROUPS:
            if not policy.kept(group):
                self.drop(group)
        if policy.gate_up == "8bit":
            self.gate_up = None

    @property
    def eight_bits(self) -> EightBits | None:
        """Gate and up in 8 bits, if they were kept so."""
        if self.gate_up_codes is None or self.gate_up_scales is None:
            return None
        return EightBits(self.gate_up_codes, self.gate_up_scales)

    def tensors(self) -> dict[str, Tensor]:
        """What is there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def there(tensor: Tensor | None) -> Tensor:
    """A kept tensor that the caller knows to be there."""
    assert tensor is not None, "a stage ran before the one whose result it needs"
    return tensor
