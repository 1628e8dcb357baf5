"""What is held whatever a step does: the base in four bits, adapters, their gradients, the optimizer's state.

In four bits a weight takes half a byte, and its share of a scale: a byte for `block_size` of them and a float32 for 256
scales with double quantization, a float32 for each `block_size` without.
"""

from collections.abc import Iterator
from typing import NamedTuple

from quatrain.memory.shape import BlockShape, LooseBlock, ModelShape

NESTED = 256
"""Scales that share a scale."""
STATE_ROW = 256
"""Elements of a row of optimizer state."""
_BYTES_OF_ROW = {8: 2 * (STATE_ROW + 4), 32: 2 * 4 * STATE_ROW}
SMALLEST_8BIT = 4096
"""A parameter with fewer elements keeps 32-bit state."""
PAGE_BYTES, PAGES_ON_DEVICE = 16 << 20, 3
"""Of paged optimizer state."""

_MIB = 1 << 20


class FourBits(NamedTuple):
    """Bytes of quantized weights."""

    codes: int
    scales: int

    @property
    def total(self) -> int:
        return self.codes + self.scales


def tensor_bytes(nbytes: int, *, on_gpu: bool) -> int:
    """What one tensor takes: PyTorch's GPU allocator hands out multiples of 512 bytes, and of a piece above 10 MiB,
    which is cut from whole multiples of 2 MiB, doesn't cut off a remainder of less than 1 MiB."""
    if not on_gpu or not nbytes:
        return nbytes
    rounded = -(-nbytes // 512) * 512
    rest = -rounded % (2 * _MIB)
    return rounded + rest if rounded >= 10 * _MIB and rest <= _MIB else rounded


def four_bits(numel: int, model: ModelShape, *, on_gpu: bool = False) -> FourBits:
    """Of one matrix of `numel` elements."""
    scales = -(-numel // model.block_size)
    stored = (scales, 4 * -(-scales // NESTED), 4) if model.double_quant else (4 * scales,)
    return FourBits(
        tensor_bytes(-(-numel // 2), on_gpu=on_gpu), sum(tensor_bytes(nbytes, on_gpu=on_gpu) for nbytes in stored)
    )


def block_weights(block: BlockShape | LooseBlock, model: ModelShape, *, on_gpu: bool) -> FourBits:
    """Of a block's quantized linears: what is streamed if the block is."""
    found = [four_bits(linear.numel, model, on_gpu=on_gpu) for linear in block.linears if linear.four_bits]
    return FourBits(sum(b.codes for b in found), sum(b.scales for b in found))


def sixteen_bit_bytes(model: ModelShape) -> int:
    """Of what isn't quantized: embedding, head, norms, biases (twice where blocks of ours join them), and linears."""
    ends = model.vocabulary * model.hidden
    elements = 0 if model.embedding_four_bits else ends
    elements += 0 if model.tied or model.head_four_bits else ends
    elements += model.other_parameters + model.head_bias * model.vocabulary
    for block in model.blocks:
        elements += block.other_parameters
        elements += sum(linear.numel for linear in block.linears if not linear.four_bits)
        elements += sum(linear.outputs for linear in block.linears if linear.bias)
        if isinstance(block, BlockShape):
            elements += sum(product.outputs for product in block.products if product.biased)
    return elements * model.item


def quantized_ends(model: ModelShape, *, on_gpu: bool) -> FourBits:
    """Of embedding and head, where they are in four bits."""
    matrices = model.embedding_four_bits + (model.head_four_bits and not model.tied)
    one = four_bits(model.vocabulary * model.hidden, model, on_gpu=on_gpu)
    return FourBits(matrices * one.codes, matrices * one.scales)


def adapter_bytes(model: ModelShape) -> int:
    """float32 masters, A in the compute dtype for our own blocks, and what DoRA and trained rows remember: the squares
    of each row of a weight, and for every token which row is its."""
    a = sum(linear.rank * linear.inputs for linear in model.linears)
    outputs = sum(linear.outputs for linear in model.linears if linear.rank)
    remembered = 4 * outputs if model.extras.magnitudes else 0
    # A head that shares the table has a list of its own.
    lists = 2 if model.tied else 1
    remembered += sum(lists * 8 * (rows + model.vocabulary) for rows in model.extras.token_rows)
    return 4 * model.adapter_parameters + (model.item * a if model.fused else 0) + remembered


def optimizer_bytes(model: ModelShape, state_bits: int) -> int:
    """AdamW's two moments, in rows of 256 elements."""
    return sum(rows * _BYTES_OF_ROW[bits] for rows, bits in _state_rows(model.trained, state_bits))


def page_slots_bytes(model: ModelShape, state_bits: int) -> int:
    """What paged state takes of the device: three pages of each width, none smaller than a parameter's state."""
    total = 0
    for bits in {bits for _, bits in _state_rows(model.trained, state_bits)}:
        rows = [rows for rows, width in _state_rows(model.trained, state_bits) if width == bits]
        page = min(sum(rows), max(PAGE_BYTES // _BYTES_OF_ROW[bits], max(rows)))
        total += PAGES_ON_DEVICE * page * _BYTES_OF_ROW[bits]
    return total


def _state_rows(trained: tuple[int, ...], state_bits: int) -> Iterator[tuple[int, int]]:
    """(rows, bits) of each trained parameter."""
    for numel in trained:
        yield -(-numel // STATE_ROW), 32 if numel < SMALLEST_8BIT else state_bits
