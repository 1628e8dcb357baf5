"""How long a step takes on a card, from operations and bytes.

Matrix products go by operations, everything between them by bytes: dequantizing writes 2 bytes a weight and reads half
of one, twice a step (three times what is recomputed), and norms, gate, rotary embedding and LoRA's thin products read
and write the numbers counted below. Attention's operations go with the square of a sample's length. Copies over the bus
(weights that are streamed, activations that are offloaded) cost nothing as long as a pass computes for longer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from quatrain.memory import attention
from quatrain.memory.autograd import AutogradStep
from quatrain.memory.card import Card, shares_of
from quatrain.memory.shape import BlockShape, Product
from quatrain.memory.step import GROUPS, Policy, Step

_GAP, _KERNELS_OF_A_BLOCK = 2e-6, 70
"""Seconds between two kernels, and how many a block asks for forward and backward."""
_PYTHON_OF_A_BLOCK = 5.5e-3
"""Seconds that Python needs to ask for them, which the GPU only waits for where a step can't be recorded."""
_WIDTH_OF_HALF_SPEED = 300
"""Elements of a product's shorter side at which it reaches half of what wide ones do."""
_MICRO_BATCH, _OPTIMIZER_STEP = 1.5e-3, 2e-3
"""Seconds of small work around a micro-batch and around an update: ids, positions, the head's ends; norms, clipping."""

_AUTOGRAD_OVERHEAD = 1.7
"""On a GPU, a step through autograd by its matrix products (peers' times in `docs/benchmarks.md`)."""


@dataclass(frozen=True)
class BlockSeconds:
    """Of one block and micro-batch."""

    forward: float
    backward: float
    """Without what is recomputed."""
    again: Mapping[str, float]
    """To make each group of a policy again."""


class Computing(NamedTuple):
    """Of all blocks and a micro-batch, copies left out."""

    forward: float
    backward: float


class Travels(NamedTuple):
    """Bytes that go over the bus beside a micro-batch's computation."""

    away: int
    """Offloaded activations, out in the forward and in again in the backward."""
    streamed: int
    """Weights, in each of the two."""
    from_disk: int
    """Of these, what is read from disk."""
    disk: float
    """Bytes a second that it reads."""


class Pace:
    """Times of one model's steps on rows of one size."""

    def __init__(self, step: Step, card: Card):
        self.step, self.card, self.shares = step, card, shares_of(card)
        found = {block: self._block(block) for block in dict.fromkeys(step.blocks)}
        self.blocks = [found[block] for block in step.blocks]
        self.head = self._head()

    def computing(self, policies: Sequence[Policy]) -> Computing:
        """Of all blocks, with what the policies recompute and without any copies."""
        forward = sum(block.forward for block in self.blocks)
        backward = sum(block.backward for block in self.blocks)
        for block, policy in zip(self.blocks, policies, strict=True):
            backward += sum(block.again[g] for g in GROUPS if getattr(policy, g) == "recompute" and g != "x")
        return Computing(forward, backward)

    def seconds(self, computing: Computing, travels: Travels) -> dict[str, float]:
        """What a micro-batch takes, part by part."""
        forward, backward = computing
        away, streamed, from_disk, disk = travels
        coming = streamed / self.card.bus + (from_disk / disk if from_disk else 0.0)
        # Out and in are different lanes of the bus; what comes in shares one.
        waiting = max(0.0, max(coming, away / self.card.bus) - forward)
        waiting += max(0.0, coming + away / self.card.bus - backward)
        found = {"forward": forward, "backward": backward, "head and loss": self.head, "overhead": _MICRO_BATCH}
        if (away or streamed) and self.card.is_gpu:
            # Such a step can't be recorded as a CUDA graph.
            found["overhead"] += max(0.0, _PYTHON_OF_A_BLOCK * len(self.blocks) - forward - backward)
        return found | ({"waiting for the bus": waiting} if waiting else {})

    def optimizer(self, state_bytes: int, *, paged: bool) -> float:
        """Clipping and AdamW, once a step."""
        passed = 24 * self.step.model.adapter_parameters + 2 * state_bytes
        travel = state_bytes / self.card.bus if paged else 0.0
        return max(passed / (self.card.bandwidth * self.shares.elementwise), travel) + _OPTIMIZER_STEP

    def _block(self, block: BlockShape) -> BlockSeconds:
        kernels = _GAP * _KERNELS_OF_A_BLOCK / 2
        qkv, o, gate_up, down = (self._product(product) for product in block.products)
        attends, attends_back = self._attention(block)
        hidden, inner, heads = block.hidden, block.down.inputs, block.o.inputs
        rotated = 2 * (block.heads + block.kv_heads) * block.head_dim
        norm = self._bytes(3 * hidden + (2 * hidden if block.sandwich else 0))
        roped = self._bytes(rotated * (3 if block.head_norms else 1))
        gate, thin = self._bytes(3 * inner), self._bytes(2 * hidden + heads + inner)
        again = {
            "x": 0.0,
            "qkv": qkv + roped + norm,
            "attention": attends,
            "x2": o + norm,
            "gate_up": gate_up + norm,
        }
        forward = qkv + o + gate_up + down + attends + 2 * norm + roped + gate + thin + kernels
        products = qkv + o + gate_up + down
        # Norms and their inputs anew, the gate in place, and for the adapters a look at each input and each gradient.
        elements = 12 * hidden + 6 * inner + rotated
        elements += 2 * thin_elements(block) + 2 * (2 * hidden + heads)
        return BlockSeconds(forward, products + attends_back + self._bytes(elements) + kernels, again)

    def _product(self, product: Product) -> float:
        operations = 2 * self.step.row.tokens * product.outputs * product.extended
        weights = sum(linear.numel * (2.516 if linear.four_bits else 4) for linear in product.linears)
        dequantizing = weights * self.step.model.item / 2 / (self.card.bandwidth * self.shares.dequantizing)
        return operations / self._rate(min(product.outputs, product.extended)) + dequantizing

    def _rate(self, width: int) -> float:
        """Operations a second of a product whose shorter side has `width` elements."""
        return self.card.flops * self.shares.products * width / (width + _WIDTH_OF_HALF_SPEED)

    def _attention(self, block: BlockShape) -> tuple[float, float]:
        """Forward and backward: operations of each sample's lower triangle, and every operand once."""
        row, card = self.step.row, self.card
        reach = min(row.longest, block.window or row.longest)
        seen = row.tokens * (reach - reach * reach / (2 * row.longest))
        operations = 4 * seen * block.heads * block.head_dim
        width = 2 * (block.heads + block.kv_heads) * block.head_dim
        scratch = attention.backward_bytes(block, row.tokens, row.backend, self.step.model.item)
        forward = operations / (card.flops * self.shares.attention_forward) + self._bytes(width)
        backward = 2.5 * operations / (card.flops * self.shares.attention_backward) + self._bytes(2 * width)
        return forward, backward + 2 * scratch / (card.bandwidth * self.shares.elementwise)

    def _head(self) -> float:
        model, row = self.step.model, self.step.row
        operations = 4 * row.supervised * model.vocabulary * model.hidden
        logits = 3 * model.item * row.supervised * model.vocabulary
        passed = logits / (self.card.bandwidth * self.shares.elementwise)
        return operations / self._rate(model.hidden) + passed

    def _bytes(self, numbers: int) -> float:
        """Seconds to read or write so many numbers a token."""
        nbytes = numbers * self.step.row.tokens * self.step.model.item
        return nbytes / (self.card.bandwidth * self.shares.elementwise)


def thin_elements(block: BlockShape) -> int:
    """Numbers a token that LoRA's thin products read of inputs and of outputs' gradients."""
    return sum(product.inputs + product.outputs for product in block.products if product.rank)


class AutogradPace:
    """The same for a model's own modules: products by their operations, everything else as long again on a GPU."""

    def __init__(self, step: AutogradStep, card: Card):
        self.step, self.card = step, card
        rate = card.flops * shares_of(card).products
        model, row = step.model, step.row
        numel = sum(linear.numel for linear in model.linears)
        passed = sum(2.5 * linear.numel for linear in model.linears if linear.four_bits)
        dequantizing = passed / (card.bandwidth * shares_of(card).dequantizing)
        self.once = (2 * row.tokens * numel / rate) * (_AUTOGRAD_OVERHEAD if card.is_gpu else 1.0) + dequantizing
        self.head = 4 * row.supervised * model.vocabulary * model.hidden / rate

    def computing(self, policies: Sequence[Policy]) -> Computing:
        """As :meth:`Pace.computing`."""
        again = any(policy.gate_up != "keep" for policy in policies)
        return Computing(self.once, self.once * (2 if again else 1))

    def seconds(self, computing: Computing, travels: Travels) -> dict[str, float]:
        """As :meth:`Pace.seconds`; nothing travels."""
        return {"forward": computing.forward, "backward": computing.backward, "head and loss": self.head}

    def optimizer(self, state_bytes: int, *, paged: bool) -> float:
        """As :meth:`Pace.optimizer`."""
        passed = 24 * self.step.model.adapter_parameters + 2 * state_bytes
        return passed / (self.card.bandwidth * shares_of(self.card).elementwise) + _OPTIMIZER_STEP
