"""A frozen embedding whose table stays in four bits.

Only the rows that are looked up are dequantized: a row is a whole number of blocks, so its codes and scales can be
picked out of the packed table by row number. The table of a model with 150,000 tokens is never in 16 bits, not even for
a moment.
"""

import torch
from torch import Tensor

from quatrain.errors import QuantizationError
from quatrain.ops.codebooks import dynamic_map
from quatrain.ops.dequantize_4bit import NESTED_BLOCK_SIZE, dequantize_4bit

from .module import QuantizedModule
from .tensor import QuantizedTensor


class QuantizedEmbedding(QuantizedModule):
    """``nn.Embedding`` with a frozen 4-bit table [V, H], H a multiple of the block size.

    Rows come in ``compute_dtype``. Raises QuantizationError if rows aren't whole blocks.
    """

    def __init__(self, weight: QuantizedTensor, compute_dtype: torch.dtype):
        super().__init__(weight, compute_dtype)
        self.num_embeddings, self.embedding_dim = weight.shape
        if self.embedding_dim % weight.block_size:
            raise QuantizationError(
                f"Rows of a 4-bit embedding must be whole blocks of {weight.block_size}; they have "
                f"{self.embedding_dim} elements. Choose a block size that divides it, or keep the embedding in 16 bits."
            )

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., H] for token numbers [...]."""
        table = self.quantized
        rows = ids.reshape(-1)
        codes = table.codes.view(self.num_embeddings, -1)[rows]
        found = dequantize_4bit(
            codes.reshape(-1),
            self._scales_of(rows).reshape(-1),
            numel=rows.numel() * self.embedding_dim,
            quant_type=table.quant_type,
            block_size=table.block_size,
            dtype=self.compute_dtype,
        )
        return found.view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.quantized.quant_type}"

    def _scales_of(self, rows: Tensor) -> Tensor:
        """The scales [rows, H/block_size] of some rows in float32, with double quantization undone."""
        scales = self.scales.view(self.num_embeddings, -1)[rows]
        if self.nested_scales is None or self.offset is None:
            return scales
        per_row = scales.shape[1]
        blocks = rows[:, None] * per_row + torch.arange(per_row, device=rows.device)
        largest = self.nested_scales[blocks // NESTED_BLOCK_SIZE]
        return dynamic_map(device=scales.device)[scales.int()] * largest + self.offset
