"""A step through a model's own modules and autograd: an upper bound of what it keeps.

Here nobody decides what is kept: autograd holds the inputs of every operation that needs them, and which those are
differs from architecture to architecture. Two numbers for each input and each output of every linear are more than any
of them keeps in 16 bits (norms and rotary embeddings compute in float32, hence two), and half of that in 32 bits, in
the small models in which saved tensors were counted. With checkpointing only blocks' inputs are kept, and one block at
a time is there whole.
"""

from collections.abc import Sequence
from functools import cached_property

from quatrain.memory.shape import BlockShape, LooseBlock, ModelShape
from quatrain.memory.step import Held, Policy, Row, head_bytes

_SCORES = 4
"""Tensors of scores that eager attention keeps, which models with soft-capping run."""


class AutogradStep:
    """Steps of one model through autograd. Policies are read as two: whether everything is kept, or inputs only."""

    def __init__(self, model: ModelShape, row: Row):
        self.model, self.row = model, row
        self.stream = model.item * row.tokens * model.hidden
        self.whole = [self._whole(block) for block in model.blocks]

    def fullest(self, policies: Sequence[Policy]) -> Held:
        """The fullest moment: all kept tensors, and the gradients of one block or the head beside them."""
        kept = sum(
            whole if policy.gate_up == "keep" else self.stream
            for whole, policy in zip(self.whole, policies, strict=True)
        )
        again = max(whole * (1 if policy.gate_up == "keep" else 2) for whole, policy in zip(self.whole, policies))  # noqa: B905
        working = max(again // 2 + self._weight, self._head)
        return Held(kept, working + self._module + 2 * self.stream, 0)

    def fullest_forward(self) -> Held:
        """The fullest moment of a forward that no backward follows."""
        return Held(0, max(max(self.whole) // 2 + self._weight, self._head) + self._module + self.stream, 0)

    def at(self, where: str, policies: Sequence[Policy]) -> list[int]:
        """Nothing is offloaded."""
        return [0] * len(policies)

    @cached_property
    def _weight(self) -> int:
        """The largest linear's weight, dequantized."""
        return self.model.item * max(linear.numel for linear in self.model.linears)

    @cached_property
    def _module(self) -> int:
        """The largest module that is trained whole: cast for the forward, and its gradient before and after a cast."""
        return (2 * self.model.item + 4) * max(map(sum, self.model.extras.modules), default=0)

    @cached_property
    def _head(self) -> int:
        if self.model.extras.head:
            # Logits, with trained rows a second time, those of supervised tokens, and in float32 these, their
            # logarithms and the gradient.
            return self.row.tokens * self.model.vocabulary * (3 * self.model.item + 12)
        return head_bytes(self.model, self.row)

    def _whole(self, block: BlockShape | LooseBlock) -> int:
        widths = sum(linear.inputs + linear.outputs + 2 * linear.rank for linear in block.linears)
        if self.model.extras.magnitudes:
            # What a magnitude is multiplied with.
            widths += sum(linear.outputs for linear in block.linears if linear.rank)
        widths += block.other_widths if isinstance(block, LooseBlock) else 0
        numbers = widths * (2 if self.model.item == 2 else 1)
        if isinstance(block, BlockShape) and block.softcap:
            numbers += _SCORES * block.heads * self.row.longest
        return self.model.item * self.row.tokens * numbers
