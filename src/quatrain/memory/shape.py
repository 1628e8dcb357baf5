"""A model as numbers: the linears of its blocks, and what lies around them. No tensor, no module, no library.

Legend: T tokens, H hidden, A query heads over G of keys and values, D head size, F feed-forward, R columns of a tail.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

TAIL_MULTIPLE = 16
"""Columns of adapters beside a dequantized weight are padded to this (as in `blocks/product.py`)."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One linear of a block."""

    name: str
    """Inside its block, such as `self_attn.q_proj`."""
    outputs: int
    inputs: int
    bias: bool = False
    rank: int = 0
    """Of its adapter; 0 without one."""
    four_bits: bool = True

    @property
    def numel(self) -> int:
        return self.outputs * self.inputs


@dataclass(frozen=True)
class Product:
    """Linears over one input, which our own blocks compute as one matrix product with the adapters inside."""

    linears: tuple[Linear, ...]

    @property
    def inputs(self) -> int:
        return self.linears[0].inputs

    @cached_property
    def outputs(self) -> int:
        return sum(linear.outputs for linear in self.linears)

    @cached_property
    def rank(self) -> int:
        return sum(linear.rank for linear in self.linears)

    @property
    def biased(self) -> bool:
        return any(linear.bias for linear in self.linears)

    @cached_property
    def extended(self) -> int:
        """Columns of the input with the adapters' (and a bias's) behind it."""
        tail = self.rank + self.biased
        return self.inputs + -(-tail // TAIL_MULTIPLE) * TAIL_MULTIPLE


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """A decoder block that our own engine computes."""

    qkv: Product
    o: Product
    gate_up: Product
    down: Product
    heads: int
    kv_heads: int
    head_dim: int
    head_norms: bool = False
    """q and k are normalized head by head."""
    sandwich: bool = False
    """A norm behind attention and MLP as well as before them."""
    window: int | None = None
    softcap: bool = False

    @property
    def products(self) -> tuple[Product, Product, Product, Product]:
        return self.qkv, self.o, self.gate_up, self.down

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        return tuple(linear for product in self.products for linear in product.linears)

    @property
    def hidden(self) -> int:
        return self.qkv.inputs

    @property
    def other_parameters(self) -> int:
        """Weights of norms."""
        return self.hidden * (4 if self.sandwich else 2) + (2 * self.head_dim if self.head_norms else 0)


@dataclass(frozen=True, kw_only=True)
class LooseBlock:
    """A block of any other architecture: its linears, and how many parameters are none of theirs."""

    linears: tuple[Linear, ...]
    other_parameters: int
    other_widths: int = 0
    """Numbers a token that pass through parameters which are no linears, such as experts in one tensor."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What is trained beside low-rank updates; only a model's own modules and autograd compute it."""

    magnitudes: bool = False
    """DoRA's: one for each output of a linear with an adapter."""
    modules: tuple[tuple[int, ...], ...] = ()
    """Of each module that is trained whole, the elements of its parameters."""
    token_rows: tuple[int, ...] = ()
    """Of each table with trained rows, how many."""
    head: bool = False
    """Whether the head is among it, so that the whole logits exist."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A causal language model with the adapters that it is to carry."""

    blocks: tuple[BlockShape | LooseBlock, ...]
    hidden: int
    vocabulary: int
    tied: bool
    """The head is the embedding."""
    other_parameters: int = 0
    """Outside of blocks, embedding and head: the final norm, and whatever an unknown architecture has more."""
    head_bias: bool = False
    scaled_embedding: bool = False
    """Embeddings are multiplied by a factor, which makes a second tensor of them."""
    rotary_dim: int = 0
    """Dimensions of a head that rotate."""
    rotary_kinds: int = 1
    """How many tables of angles the model has."""
    item: int = 2
    """Bytes of a number in the compute dtype."""
    block_size: int = 64
    """Weights that share a scale."""
    double_quant: bool = True
    embedding_four_bits: bool = False
    head_four_bits: bool = False
    dropout: bool = False
    """Whether adapters have dropout."""
    extras: Extras = Extras()

    @property
    def fused(self) -> bool:
        """Whether our own engine knows every block and all that is trained, so that bytes are exact."""
        return self.extras == Extras() and all(isinstance(block, BlockShape) for block in self.blocks)

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """Of all blocks."""
        return tuple(linear for block in self.blocks for linear in block.linears)

    @cached_property
    def trained(self) -> tuple[int, ...]:
        """Elements of each parameter that is trained."""
        adapted = [linear for linear in self.linears if linear.rank]
        found = [linear.rank * width for linear in adapted for width in (linear.inputs, linear.outputs)]
        found += [linear.outputs for linear in adapted] if self.extras.magnitudes else []
        found += [numel for module in self.extras.modules for numel in module]
        return (*found, *(rows * self.hidden for rows in self.extras.token_rows))

    @cached_property
    def adapter_parameters(self) -> int:
        return sum(self.trained)

    @cached_property
    def parameters(self) -> int:
        """Of the frozen base."""
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2) + self.head_bias * self.vocabulary
        others = self.other_parameters + sum(block.other_parameters for block in self.blocks)
        return sum(map(numel_with_bias, self.linears)) + ends + others


def numel_with_bias(linear: Linear) -> int:
    return prod((linear.outputs, linear.inputs)) + linear.bias * linear.outputs
