"""Shapes of models of the Llama family, and how much of everything they have: the arithmetic under floors and files."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder: RMSNorm, rotary attention over grouped heads, SwiGLU, no biases."""

    hidden: int
    feed_forward: int
    blocks: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False
    """The head is the embedding."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of the linears of one block, by their names in a checkpoint."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "self_attn.q_proj": (q, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, q),
            "mlp.gate_proj": (self.feed_forward, self.hidden),
            "mlp.up_proj": (self.feed_forward, self.hidden),
            "mlp.down_proj": (self.hidden, self.feed_forward),
        }

    @property
    def joined_linears(self) -> list[tuple[int, int]]:
        """The same with q/k/v and gate/up as one product each, which is the fastest way to run them."""
        q, kv = self.heads * self.head_size, self.kv_heads * self.head_size
        return [
            (q + 2 * kv, self.hidden),
            (self.hidden, q),
            (2 * self.feed_forward, self.hidden),
            (self.hidden, self.feed_forward),
        ]

    @property
    def linear_parameters(self) -> int:
        """N: parameters of all blocks' linears, which are stored in four bits."""
        return self.blocks * sum(math.prod(shape) for shape in self.linears.values())

    @property
    def head_parameters(self) -> int:
        """V·h, in 16 bits."""
        return self.vocabulary * self.hidden

    def lora_parameters(self, r: int) -> int:
        """P: an adapter of rank r on every linear of the blocks."""
        return self.blocks * r * sum(sum(shape) for shape in self.linears.values())

    @property
    def bytes_16bit(self) -> int:
        """Bytes of a checkpoint in 16 bits, norms left out."""
        return 2 * (self.linear_parameters + self.head_parameters * (1 if self.tied else 2))


SHAPES = {
    # Llama-3.1-8B
    "8b": Shape(hidden=4096, feed_forward=14336, blocks=32, heads=32, kv_heads=8, head_size=128, vocabulary=128256),
    # The largest of Llama 1, as in the QLoRA paper
    "33b": Shape(hidden=6656, feed_forward=17920, blocks=60, heads=52, kv_heads=52, head_size=128, vocabulary=32000),
    "65b": Shape(hidden=8192, feed_forward=22016, blocks=80, heads=64, kv_heads=64, head_size=128, vocabulary=32000),
    # Llama-3-70B
    "70b": Shape(hidden=8192, feed_forward=28672, blocks=80, heads=64, kv_heads=8, head_size=128, vocabulary=128256),
    # Llama-3.1-405B
    "405b": Shape(
        hidden=16384, feed_forward=53248, blocks=126, heads=128, kv_heads=8, head_size=128, vocabulary=128256
    ),
    # Llama-3.2-1B
    "1b": Shape(
        hidden=2048, feed_forward=8192, blocks=16, heads=32, kv_heads=8, head_size=64, vocabulary=128256, tied=True
    ),
    "smollm2": Shape(
        hidden=576, feed_forward=1536, blocks=30, heads=9, kv_heads=3, head_size=64, vocabulary=49152, tied=True
    ),
    # A small one that is quickly written to files.
    "300m": Shape(hidden=1024, feed_forward=4096, blocks=16, heads=16, kv_heads=4, head_size=64, vocabulary=8192),
    # What the gates run on: heads as large as those of the models that they stand in for, everything else small.
    "gate_8b": Shape(hidden=512, feed_forward=832, blocks=2, heads=4, kv_heads=2, head_size=128, vocabulary=1024),
    "gate_1b": Shape(
        hidden=256, feed_forward=704, blocks=2, heads=4, kv_heads=2, head_size=64, vocabulary=1024, tied=True
    ),
    # For the tests of the benchmarks themselves.
    "tiny": Shape(hidden=64, feed_forward=192, blocks=2, heads=4, kv_heads=2, head_size=16, vocabulary=512),
}
