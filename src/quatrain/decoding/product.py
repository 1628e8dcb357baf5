"""A block's joint product for the few rows of a decoding step: 4-bit weights and adapters in one launch.

Training multiplies thousands of rows, so it dequantizes the weights into a scratch (`blocks/product.py`). One row per
sequence doesn't repay that; here the codes themselves are multiplied.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from quatrain.blocks.product import JoinedProduct, Part
from quatrain.ops.dequantize_4bit import NestedScales
from quatrain.ops.linear_4bit import LowRank, Matrix4bit, linear_4bit
from quatrain.ops.low_rank_sums import low_rank_sums
from quatrain.quantization import QuantizedLinear


class RowProduct:
    """`product` for at most `ops.linear_4bit.MOST_ROWS` rows. Adapters are read once, here."""

    @torch.no_grad()
    def __init__(self, product: JoinedProduct):
        product.refresh()
        self._parts, self._a_RK = product.parts, product.a_RK
        self._bias_N, self._own_MR = product.bias_N, product.own_BR
        self._b = [_scaled_b(part, product.a_RK.dtype) for part in product.parts]
        in_four_bits = all(isinstance(part.base, QuantizedLinear) for part in product.parts)
        self._weights = [_matrix(part.base) for part in product.parts] if in_four_bits else None

    def __call__(self, x_MK: Tensor) -> Tensor:
        """[M, N], the outputs of all parts side by side."""
        updates = self._updates(x_MK)
        if self._weights is not None:
            return linear_4bit(x_MK, self._weights, bias_N=self._bias_N, low_rank=updates)
        outputs = []
        for part, update in zip(self._parts, updates, strict=True):
            y_MN = part.base(x_MK)
            if update is not None:
                y_MN = y_MN + F.linear(update.sums_SMR.sum(0).to(x_MK.dtype), update.b_NR)
            outputs.append(y_MN)
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]

    def _updates(self, x_MK: Tensor) -> list[LowRank | None]:
        if not len(self._a_RK):
            return [None] * len(self._parts)
        sums_SMR = low_rank_sums(x_MK, self._a_RK)
        if self._own_MR is not None:
            sums_SMR = sums_SMR * self._own_MR
        return [
            None if b_NR is None else LowRank(sums_SMR[..., part.columns], b_NR)
            for part, b_NR in zip(self._parts, self._b, strict=True)
        ]


def _scaled_b(part: Part, dtype: torch.dtype) -> Tensor | None:
    return None if part.lora is None else (part.lora.lora_B * part.lora.scaling).to(dtype)


def _matrix(linear: QuantizedLinear) -> Matrix4bit:
    weight = linear.quantized
    nested = None
    if weight.nested_scales is not None and weight.offset is not None:
        nested = NestedScales(weight.nested_scales, weight.offset)
    return Matrix4bit(
        weight.codes, weight.scales, nested, *weight.shape, quant_type=weight.quant_type, block_size=weight.block_size
    )
