"""What the activations of a training step take, by plain arithmetic on a stack's shapes."""

from collections.abc import Iterator

from quatrain.blocks.block import DecoderBlock
from quatrain.blocks.policy import GROUPS, POLICIES, RECOMPUTE_ALL, Policy
from quatrain.blocks.stack import BlockStack

# Room for the head's chunk of logits, allocator holes, and what libraries take for themselves.
_MARGIN = 3 << 29


def fastest_policy(stack: BlockStack, tokens: int, free: int, host_free: int) -> Policy:
    """The first of `POLICIES` whose step of `tokens` tokens fits into `free` bytes of the device and `host_free` of the
    host, or the last."""
    for policy in POLICIES.values():
        needed = activation_bytes(stack, tokens, policy) + _MARGIN
        if needed <= free and host_bytes(stack, tokens, policy) <= host_free:
            return policy
    return RECOMPUTE_ALL


def host_bytes(stack: BlockStack, tokens: int, policy: Policy) -> int:
    """Pinned host memory that offloaded activations take."""
    return stack.workspace.dtype.itemsize * tokens * sum(_numbers(block, policy, "offload") for block in stack.blocks)


def activation_bytes(stack: BlockStack, tokens: int, policy: Policy) -> int:
    """Device memory that a step's activations take at their fullest, shared buffers included."""
    blocks, size = stack.blocks, stack.workspace.dtype.itemsize
    kept = sum(_numbers(block, policy, "keep") for block in blocks)
    # What isn't kept is there for the block at work; what is offloaded, also for the two beside it.
    passing = max(_numbers(block, policy, "recompute") + 3 * _numbers(block, policy, "offload") for block in blocks)
    shared = max(sum(_shared(block)) for block in blocks)
    weight = max(product.out_features * product.extended for block in blocks for product in block.products)
    return size * (tokens * (kept + passing + shared) + weight)


def _numbers(block: DecoderBlock, policy: Policy, where: str) -> int:
    """Numbers a token of the groups that `policy` has at `where`."""
    hidden, width = block.qkv.in_features, block.spec.qkv_width
    sizes = {
        "x": hidden * (2 if block.modules.mlp_out_norm is not None else 1),
        "qkv": width + block.qkv.rank,
        "attention": block.o.extended,
        "x2": hidden * (2 if block.modules.attention_out_norm is not None else 1),
        "gate_up": block.gate_up.out_features + block.gate_up.rank + block.down.rank,
    }
    return sum(sizes[group] for group in GROUPS if getattr(policy, group) == where)


def _shared(block: DecoderBlock) -> Iterator[int]:
    """Numbers a token of the buffers that all blocks share, and of the gradient and residual that pass through."""
    yield from (block.qkv.extended, block.qkv.extended, block.o.extended, block.down.extended)
    yield block.spec.qkv_width
    yield 4 * block.qkv.in_features
