"""What devices can do, by their makers' figures, and what of that a training step gets.

A card that isn't there can be planned for by name. Bytes a second and operations a second are the data sheets' (dense
bfloat16 with float32 sums); the shares of them that products, attention and elementwise kernels reach are measured on
an H200 (`benchmarks/results/lab/step_6.txt`, `attention.txt`) and estimates for other generations.
"""

import difflib
from dataclasses import dataclass, replace

from quatrain.errors import ConfigError
from quatrain.memory.attention import Backend

GIB = 1 << 30
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Card:
    """A device that trains."""

    name: str
    memory: int
    """Bytes that a process can have, the driver's context included."""
    bandwidth: float
    """Bytes a second between memory and processors."""
    flops: float
    """Operations a second of matrix products in the compute dtype."""
    bus: float
    """Bytes a second from pinned host memory, in each direction."""
    generation: int
    """The major CUDA compute capability; 0 for a processor."""
    backend: Backend
    """The kernel that attends."""
    context: int = 800 * _MIB
    """What the driver, libraries and compiled kernels take beside tensors; of the host, the process without a model."""

    @property
    def is_gpu(self) -> bool:
        return self.generation > 0

    @property
    def library_bytes(self) -> int:
        """What cuBLAS takes through PyTorch's allocator."""
        return {0: 0, 9: 32 * _MIB}.get(self.generation, 8519680)


@dataclass(frozen=True)
class Shares:
    """Parts of a card's figures that kernels reach."""

    products: float
    """Of very wide matrices; narrower ones get less (`seconds.py`)."""
    attention_forward: float
    attention_backward: float
    elementwise: float
    dequantizing: float


_SHARES = {
    0: Shares(0.85, 0.3, 0.3, 0.5, 0.25),
    8: Shares(0.88, 0.6, 0.5, 0.75, 0.55),
    9: Shares(0.78, 0.56, 0.5, 0.72, 0.5),
    10: Shares(0.78, 0.5, 0.4, 0.7, 0.5),
    12: Shares(0.88, 0.6, 0.45, 0.75, 0.55),
}
"""By generation."""


def shares_of(card: Card) -> Shares:
    """What a step gets of a card; of an unknown generation what its predecessor's kernels get."""
    return _SHARES[max(known for known in _SHARES if known <= card.generation)]


def _card(name: str, gib: float, gbytes: float, tflops: float, bus: float, generation: int) -> Card:
    return Card(
        name=name,
        memory=int(gib * GIB),
        bandwidth=gbytes * 1e9,
        flops=tflops * 1e12,
        bus=bus * 1e9,
        generation=generation,
        backend="cudnn" if generation in (9, 10) else "flash2",
    )


CPU = "cpu"
_BANDWIDTH_OF_A_CORE, _BANDWIDTH_OF_A_HOST = 12e9, 200e9

CARDS = {
    card.name: card
    for card in (
        _card("rtx3060-12gb", 11.6, 360, 25.6, 22, 8),
        _card("rtx3090", 23.5, 936, 71, 25, 8),
        _card("rtx4060ti-16gb", 15.6, 288, 44, 12, 8),
        _card("rtx4070ti-super", 15.6, 672, 88, 25, 8),
        _card("rtx4080", 15.6, 717, 97.5, 25, 8),
        _card("rtx4090", 23.5, 1008, 165, 25, 8),
        _card("rtx5080", 15.5, 960, 112.5, 50, 12),
        _card("rtx5090", 31.3, 1792, 209.5, 50, 12),
        _card("a10", 22.0, 600, 125, 25, 8),
        _card("l4", 22.0, 300, 121, 25, 8),
        _card("a6000", 47.4, 768, 155, 25, 8),
        _card("l40s", 44.4, 864, 362, 25, 8),
        _card("a100-40gb", 39.4, 1555, 312, 25, 8),
        _card("a100-80gb", 79.2, 2039, 312, 25, 8),
        _card("h100-pcie", 79.1, 2039, 756, 50, 9),
        _card("h100", 79.1, 3352, 989, 55, 9),
        _card("h200", 139.8, 4800, 989, 55, 9),
        _card("b200", 178.0, 7700, 2250, 55, 10),
    )
}
"""By the names that a person gives."""


def processor(memory: int, *, cores: int, flops_of_a_core: float, context: int = 800 * _MIB) -> Card:
    """A CPU: its memory is the host's, and nothing travels over a bus.

    Args:
        flops_of_a_core: operations a second of matrix products in the compute dtype.
    """
    return Card(
        name=CPU,
        memory=memory,
        bandwidth=min(_BANDWIDTH_OF_A_CORE * cores, _BANDWIDTH_OF_A_HOST),
        flops=flops_of_a_core * cores,
        bus=_BANDWIDTH_OF_A_HOST,
        generation=0,
        backend="triton",
        context=context,
    )


def card_named(name: str) -> Card:
    """The card of this name; spaces, hyphens and case don't count, nor does the maker's name before it.

    Raises:
        ConfigError: there is none; says which there are.
    """
    found = {_plain(known): card for known, card in CARDS.items()}.get(_plain(name))
    if found is None:
        near = difflib.get_close_matches(name.lower(), CARDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"no card is called {name!r}; {hint}known are {', '.join(CARDS)}")
    return found


def card_like(name: str, memory: int, generation: int, multiprocessors: int) -> Card:
    """A GPU that is there, by what it says of itself: the card of its name, or one of its generation in proportion.

    Args:
        name: such as "NVIDIA A100-SXM4-40GB". memory: bytes in all.
        generation: the major compute capability.
    """
    plain = _plain(name)
    named = [card for card in CARDS.values() if _plain(card.name.partition("-")[0]) in plain]
    longest = max((len(card.name.partition("-")[0]) for card in named), default=0)
    named = [card for card in named if len(card.name.partition("-")[0]) == longest]
    named = [card for card in named if abs(card.memory / memory - 1) < _SAME_MEMORY]
    if named:
        variant = max(named, key=lambda card: _plain(card.name) in plain)
        return replace(variant, name=name, memory=memory)
    known = max(g for g in _REFERENCE if g <= max(generation, min(_REFERENCE)))
    model, processors = _REFERENCE[known]
    share = multiprocessors / processors
    card = CARDS[model]
    return replace(card, name=name, memory=memory, flops=card.flops * share, bandwidth=card.bandwidth * share)


_SAME_MEMORY = 0.1
_REFERENCE = {8: ("rtx4090", 128), 9: ("h100", 132), 10: ("b200", 148), 12: ("rtx5090", 170)}
"""A card of each generation, and its multiprocessors."""


def _plain(name: str) -> str:
    plain = name.lower()
    for word in ("nvidia", "geforce", "tesla", " ", "-", "_"):
        plain = plain.replace(word, "")
    return plain
