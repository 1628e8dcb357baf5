"""A training step of our own blocks, played through in bytes: what it takes, what it gives back, and when.

The order is that of the engine (`blocks/stack.py`, `block.py`, `backward.py`, `store.py`, `models/engine.py`), one line
here for a tensor there; what a Python variable still refers to is still held. The fullest moment is the plan's peak.
Written as a formula it would be shorter and wrong: with a policy of its own for each block the fullest moment may be in
the head, in the first backward, or in that of the first block that keeps everything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from quatrain.memory import attention
from quatrain.memory.shape import BlockShape, ModelShape
from quatrain.ops.gated_activation.eight_bits import BLOCK
from quatrain.ops.linear_cross_entropy.cutting import columns_of_logits, rows_of_a_chunk


class Policy(Protocol):
    """Where each group of a block's tensors is until its backward: "keep", "offload" or "recompute"; gate_up also
    "8bit", kept in half of the bytes."""

    @property
    def x(self) -> str: ...
    @property
    def qkv(self) -> str: ...
    @property
    def attention(self) -> str: ...
    @property
    def x2(self) -> str: ...
    @property
    def gate_up(self) -> str: ...


GROUPS = ("x", "qkv", "attention", "x2", "gate_up")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A micro-batch, and what runs it."""

    tokens: int
    longest: int
    """Tokens of its longest sample."""
    supervised: int
    """Tokens that have a target."""
    backend: attention.Backend
    on_gpu: bool = True


class Held(NamedTuple):
    """Bytes at one moment, beside what is there in every moment."""

    kept: int
    """Of blocks whose backward comes later."""
    working: int
    """Of the block at work, and of what passes through it."""
    head: int

    @property
    def total(self) -> int:
        return self.kept + self.working + self.head


def group_bytes(block: BlockShape, row: Row, item: int) -> dict[str, int]:
    """What each group of a policy takes."""
    hidden, qkv = block.hidden, block.qkv
    numbers = {
        "x": hidden * (2 if block.sandwich else 1),
        "qkv": qkv.outputs + qkv.rank,
        "attention": block.o.extended,
        "x2": hidden * (2 if block.sandwich else 1),
        "gate_up": block.gate_up.outputs + block.gate_up.rank + block.down.rank,
    }
    found = {group: item * row.tokens * count for group, count in numbers.items()}
    found["attention"] += attention.lse_bytes(block, row.tokens)
    return found


def eight_bit_bytes(block: BlockShape, row: Row, item: int) -> int:
    """What the group gate_up takes with gate and up in 8 bits, and scales."""
    half, ranks = block.gate_up.outputs // 2, block.gate_up.rank + block.down.rank
    return row.tokens * (2 * (half + 4 * -(-half // BLOCK)) + item * ranks)


def shared_buffers(model: ModelShape, row: Row) -> dict[str, int]:
    """The buffers that all blocks share, by the names in their workspace."""
    sizes: dict[str, int] = {}
    for block in dict.fromkeys(fused_blocks(model)):
        rows = {
            "x": max(block.qkv.extended, block.gate_up.extended),
            "branch": block.hidden,
            "wide": max(block.down.extended, block.qkv.outputs),
            "dx": max(product.extended for product in (block.qkv, block.o, block.gate_up)),
            "roped": (block.heads + block.kv_heads) * block.head_dim if block.head_norms else 0,
        }
        found = {name: model.item * row.tokens * width for name, width in rows.items()}
        found["weight"] = model.item * max(p.outputs * p.extended for p in block.products)
        found["gradient of B"] = 4 * max(p.rank * p.outputs for p in block.products)
        sizes = {name: max(nbytes, sizes.get(name, 0)) for name, nbytes in found.items()}
    return sizes


def rotary_bytes(model: ModelShape, row: Row) -> int:
    """Cosines and sines of every position, in float32."""
    return 4 * model.rotary_kinds * model.rotary_dim * row.longest


def head_chunk(model: ModelShape, row: Row) -> int:
    """Supervised tokens whose logits exist at once."""
    return rows_of_a_chunk(row.supervised, model.hidden, model.vocabulary, on_gpu=row.on_gpu)


def head_bytes(model: ModelShape, row: Row) -> int:
    """Logits of a chunk, the hidden states that it is made of, their gradient, and losses, targets and indices."""
    logits = model.item * head_chunk(model, row) * columns_of_logits(model.vocabulary)
    weight = model.item * model.vocabulary * model.hidden if model.head_four_bits else 0
    return logits + weight + row.supervised * (2 * model.item * model.hidden + 4 + 8 + 8)


class Step:
    """The steps of one model on rows of one size, under any policies."""

    def __init__(self, model: ModelShape, row: Row):
        self.model, self.row = model, row
        self.blocks = fused_blocks(model)
        self.stream = model.item * row.tokens * model.hidden
        """A tensor [T, H]."""
        sizes = {block: group_bytes(block, row, model.item) for block in dict.fromkeys(self.blocks)}
        self.sizes = [sizes[block] for block in self.blocks]
        self.eight_bits = [eight_bit_bytes(block, row, model.item) for block in self.blocks]
        scratch = {block: self._attention(block) for block in sizes}
        self.scratch = [scratch[block] for block in self.blocks]
        self.head = head_bytes(model, row)

    def fullest(self, policies: Sequence[Policy]) -> Held:
        """The fullest moment of forward, head and backward."""
        moment = _Moment()
        self._forward(policies, moment)
        # The last sum and what the final norm made of it are there already; now also the gradient of that.
        away = self.at("offload", policies)
        last = _last_to_leave(away)
        stayed = 0 if last is None else away[last]
        moment.look(working=3 * self.stream + stayed, head=self.head)
        moment.look(working=2 * self.stream + stayed)
        self._backward(policies, moment)
        return moment.fullest

    def fullest_forward(self) -> Held:
        """The fullest moment of a forward that no backward follows."""
        moment = _Moment()
        self._forward([_NOTHING] * len(self.blocks), moment)
        moment.look(working=self.stream, head=self.head)
        return moment.fullest

    def at(self, where: str, policies: Sequence[Policy]) -> list[int]:
        """Bytes of each block's groups that its policy has at `where`: "keep", in 8 bits too, or "offload"."""
        found = [_at(where, sizes, policy) for sizes, policy in zip(self.sizes, policies, strict=True)]
        return list(map(sum, zip(found, self._in_8_bits(policies), strict=True))) if where == "keep" else found

    def _in_8_bits(self, policies: Sequence[Policy]) -> list[int]:
        """What each block keeps in 8 bits."""
        return [size if policy.gate_up == "8bit" else 0 for size, policy in zip(self.eight_bits, policies, strict=True)]

    def _attention(self, block: BlockShape) -> tuple[int, int]:
        arguments = (block, self.row.tokens, self.row.backend, self.model.item)
        return attention.forward_bytes(*arguments), attention.backward_bytes(*arguments)

    def _forward(self, policies: Sequence[Policy], moment: "_Moment") -> None:
        if self.model.scaled_embedding:
            moment.look(working=2 * self.stream)
        # The embedded tokens are the caller's until the forward ends, whatever the first block keeps.
        embedded = 0 if policies[0].x == "keep" else self.stream
        residual, leaving = 0, 0
        keeps, in_8_bits = self.at("keep", policies), self._in_8_bits(policies)
        for index, (sizes, policy) in enumerate(zip(self.sizes, policies, strict=True)):
            # All of a block is there until it is done, x2 of the one before, which the loop holds, and what leaves.
            whole = residual + sum(sizes.values()) + (embedded if index else 0) + leaving
            moment.look(working=whole - sizes["x2"] - sizes["gate_up"] + self.scratch[index][0])
            moment.look(working=whole + in_8_bits[index])
            moment.kept += keeps[index]
            residual = self.stream if policy.x2 == "recompute" else 0
            leaving = _at("offload", sizes, policy) or leaving
        moment.look(working=embedded + residual + 2 * self.stream + leaving)

    def _backward(self, policies: Sequence[Policy], moment: "_Moment") -> None:
        away, keeps, in_8_bits = self.at("offload", policies), self.at("keep", policies), self._in_8_bits(policies)
        last = _last_to_leave(away)
        for index in reversed(range(len(self.blocks))):
            sizes = self.sizes[index]
            moment.kept -= keeps[index]
            # The next block's tensors come back while this one computes; those of the last to leave never went.
            beside = sum(away[other] for other in {last, index - 1} if other is not None and 0 <= other < index)
            working = self.stream + sum(sizes.values()) + beside
            moment.look(working=working + in_8_bits[index])
            moment.look(working=working - sizes["gate_up"] - self.stream + self.scratch[index][1])


class _Moment:
    """What is kept now, and the fullest moment so far."""

    def __init__(self) -> None:
        self.kept = 0
        self.fullest = Held(0, 0, 0)

    def look(self, *, working: int, head: int = 0) -> None:
        """Compare this moment with the fullest."""
        if self.kept + working + head > self.fullest.total:
            self.fullest = Held(self.kept, working, head)


def _last_to_leave(away: Sequence[int]) -> int | None:
    """The block whose offloaded tensors are still leaving when the forward ends."""
    return max((index for index, nbytes in enumerate(away) if nbytes), default=None)


class _Nothing:
    x = qkv = attention = x2 = gate_up = "recompute"


_NOTHING = _Nothing()


def _at(where: str, sizes: Mapping[str, int], policy: Policy) -> int:
    return sum(sizes[group] for group in GROUPS if getattr(policy, group) == where)


def fused_blocks(model: ModelShape) -> tuple[BlockShape, ...]:
    """The blocks of a model that our own engine runs."""
    return tuple(block for block in model.blocks if isinstance(block, BlockShape))
