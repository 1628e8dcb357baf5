"""What attention takes beside its inputs and outputs, by the kernel that runs.

cuDNN's backward adds up dq in float32, as far apart as dq's own rows, and writes dk and dv in float32 for every query
head (`benchmarks/results/lab/attention.txt` has its workspaces in bytes, which this formula gives). FlashAttention-2
adds up dq too, with up to 128 rows more for every slot of a sample, expands keys and values to all query heads, and
copies what isn't contiguous.
"""

from typing import Literal

from quatrain.memory.shape import BlockShape

Backend = Literal["cudnn", "flash2", "triton"]

SLOTS = 64
"""Samples that a row has room for at least."""
_FLASH_PADDING = 128


def lse_bytes(block: BlockShape, tokens: int) -> int:
    """The log-sum-exp, which is kept for the backward."""
    return 4 * block.heads * tokens


def backend_of(block: BlockShape, backend: Backend, item: int) -> Backend:
    """The kernel for this block: soft-capping and float32 are our own kernel's."""
    return "triton" if block.softcap or item == 4 else backend


def forward_bytes(block: BlockShape, tokens: int, backend: Backend, item: int) -> int:
    """Scratch of the forward: FlashAttention makes an output of its own before it is copied."""
    made = block.heads * block.head_dim * tokens * item
    return made if backend_of(block, backend, item) == "flash2" else 0


def backward_bytes(block: BlockShape, tokens: int, backend: Backend, item: int) -> int:
    """Scratch of the backward, its own gradients included where they are made apart and copied."""
    queries, keys = block.heads * block.head_dim, block.kv_heads * block.head_dim
    apart = 2 * keys * tokens * item
    match backend_of(block, backend, item):
        case "cudnn":
            expanded = 2 * queries if block.heads != block.kv_heads else 0
            return 4 * tokens * (queries + 2 * keys + expanded + block.heads) + apart
        case "flash2":
            padded = tokens + _FLASH_PADDING * SLOTS
            rounded = block.heads * -(-block.head_dim // 32) * 32
            expanded = 2 * queries * tokens * item if block.heads != block.kv_heads else 0
            copies = 3 * queries * tokens * item  # of the output and its gradient, and dq
            return 4 * padded * (rounded + block.heads) + copies + apart + expanded
        case "triton":
            return 4 * block.heads * tokens
