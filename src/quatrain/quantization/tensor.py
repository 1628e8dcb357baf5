"""A tensor in four bits: packed codes, a scale per block, and usually scales of the scales.

With blocks of 64 a float32 scale costs half a bit per parameter. **Double quantization** (QLoRA, section 3) stores
the scales in 8 bits themselves: their mean (the offset) is taken off, and what remains is quantized in blocks of 256
with the 8-bit dynamic map. Together 4 + 8/64 + 32/(64·256) = 4.127 bits per parameter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from quatrain.errors import QuantizationError
from quatrain.ops.dequantize_4bit import NESTED_BLOCK_SIZE, NestedScales, dequantize_4bit
from quatrain.ops.quantize_4bit import quantize_4bit as quantize_blocks
from quatrain.ops.quantize_8bit import quantize_8bit


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedTensor:
    """A tensor of ``shape`` in four bits. Immutable; all its tensors lie on one device."""

    codes: Tensor
    """uint8 [⌈n/2⌉], two codes a byte, row-major, the even element in the high nibble."""
    scales: Tensor
    """[⌈n/block_size⌉], float32, or uint8 with double quantization."""
    nested_scales: Tensor | None
    """float32 [⌈blocks/256⌉] with double quantization."""
    offset: Tensor | None
    """float32 scalar with double quantization: the mean of the scales."""
    shape: torch.Size
    dtype: torch.dtype
    """What the tensor was before, and what it is dequantized to unless asked otherwise."""
    quant_type: str
    block_size: int

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def is_double_quantized(self) -> bool:
        return self.nested_scales is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored."""
        return sum(t.nbytes for t in self.tensors().values())

    @property
    def bits_per_parameter(self) -> float:
        return 8 * self.nbytes / self.numel

    @property
    def witness(self) -> Tensor:
        """A float32 scalar on the device that is finite exactly if the scales are, and with them what was quantized.

        A NaN or an infinity makes its block's scale NaN or infinite; double quantization takes it on through the
        offset to all scales of the scales.
        """
        return (self.scales if self.nested_scales is None else self.nested_scales).sum()

    def dequantize(self, dtype: torch.dtype | None = None, *, out: Tensor | None = None) -> Tensor:
        """The tensor [shape] in ``dtype`` (its original one by default).

        ``out`` [shape] receives it: contiguous, or a matrix whose rows may lie any distance apart.
        """
        nested = None
        if self.nested_scales is not None and self.offset is not None:
            nested = NestedScales(self.nested_scales, self.offset)
        if out is not None and out.shape != self.shape:
            raise QuantizationError(
                f"out must have the tensor's shape {list(self.shape)}, got {list(out.shape)}. Pass such a view."
            )
        return dequantize_4bit(
            self.codes,
            self.scales,
            numel=self.numel,
            quant_type=self.quant_type,
            block_size=self.block_size,
            dtype=dtype or (self.dtype if out is None else out.dtype),
            nested=nested,
            out=out.view(-1) if out is not None and out.is_contiguous() else out,  # of any number of dimensions
        ).view(self.shape)

    def to(self, device: torch.device | str) -> "QuantizedTensor":
        """The same tensor on ``device``; itself if it is there already."""
        return self.map(lambda tensor: tensor.to(device))

    def map(self, function: Callable[[Tensor], Tensor]) -> "QuantizedTensor":
        """The same tensor with ``function`` applied to each stored tensor (to move, pin or clone them)."""
        return replace(self, **{name: function(tensor) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors by field name: ``codes``, ``scales``, and with double quantization the other two."""
        stored = {name: getattr(self, name) for name in ("codes", "scales", "nested_scales", "offset")}
        return {name: tensor for name, tensor in stored.items() if tensor is not None}


def quantize_4bit(
    tensor: Tensor,
    quant_type: str = "nf4",
    block_size: int = 64,
    double_quant: bool = True,
    *,
    check_finite: bool = True,
) -> QuantizedTensor:
    """Quantize a float32, bfloat16 or float16 ``tensor`` of any shape, in blocks along its row-major order.

    ``quant_type`` is "nf4", "fp4" or "int4"; ``block_size`` a power of two from 32 to 4096. Codes, scales, nested
    scales and offset of NF4 and FP4 equal those of bitsandbytes 0.50.2 byte for byte (on the CPU; a GPU sums the
    offset's mean in another order).

    Raises QuantizationError if the tensor is empty, holds a NaN or an infinity, or has another type. Seeing a NaN or
    an infinity waits for the device; who quantizes many tensors passes ``check_finite=False``, and all of them to
    :func:`check_finite_weights` at the end.
    """
    codes, scales = quantize_blocks(tensor, quant_type=quant_type, block_size=block_size, check_finite=False)
    nested_scales = offset = None
    if double_quant:
        offset = scales.mean()
        scales, nested_scales = quantize_8bit(scales, block_size=NESTED_BLOCK_SIZE, offset=offset, check_finite=False)
    weight = QuantizedTensor(
        codes=codes,
        scales=scales,
        nested_scales=nested_scales,
        offset=offset,
        shape=tensor.shape,
        dtype=tensor.dtype,
        quant_type=quant_type,
        block_size=block_size,
    )
    if check_finite:
        check_finite_weights({"A tensor to quantize": weight})
    return weight


def check_finite_weights(weights: Mapping[str, QuantizedTensor]) -> None:
    """Raises QuantizationError with the names of all ``weights`` (on one device) that hold a NaN or an infinity.

    One wait for the device, however many there are.
    """
    check_witnesses({name: weight.witness for name, weight in weights.items()})


def check_witnesses(witnesses: Mapping[str, Tensor]) -> None:
    """:func:`check_finite_weights` for whoever has only the weights' ``witness`` left, by their names."""
    if not witnesses:
        return
    finite = torch.stack(list(witnesses.values())).isfinite().tolist()
    damaged = [name for name, is_finite in zip(witnesses, finite, strict=True) if not is_finite]
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise QuantizationError(
            f"{', '.join(damaged[:5])}{more} must be finite; they hold a NaN or an infinity, or scales so "
            "large that their sum isn't finite. They are damaged, or overflowed when they were cast to float16."
        )
