"""A 4-bit product for few rows, as in decoding: y = x · dequantize(W)ᵀ."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.case import (
    BITSANDBYTES,
    QUATRAIN,
    SIXTEEN_BITS,
    Case,
    Contender,
    Figures,
    Kind,
    Play,
    Row,
    Rows,
    Setting,
)
from benchmarks.case import WrongResult as Wrong
from benchmarks.floor import copy_rate, product_floor_ms
from benchmarks.gate import relative_error
from benchmarks.timing import kernel_ms

KIND = Kind(
    title="4-bit products for few rows",
    note="M rows in bfloat16 times a matrix of outputs×inputs in NF4 with double quantization. Buffers rotate and "
    "launches queue up. Floor: weight, input and output move once at the speed of a large copy.",
)
SHAPES = ((4096, 14336), (14336, 4096))
"""Outputs and inputs: an 8B model's way down, and one of its two ways up."""
ROWS = (1, 4, 8, 16, 32)
ROTATION, LAUNCHES = 8, 64
TOLERANCE = 1e-2
"""Of the output by norm, against float32 on the dequantized weight: rounding to bfloat16 costs 0.2 to 0.4 %."""

Product = Callable[[Tensor], Tensor]
Make = Callable[[Tensor], Product]
"""Weight [outputs, inputs] in bfloat16 → x [M, inputs] to y [M, outputs]."""


def quatrain(dense: Tensor) -> Product:
    """The operation that decoding runs on."""
    from quatrain.ops.dequantize_4bit import NestedScales
    from quatrain.ops.linear_4bit import Matrix4bit, linear_4bit
    from quatrain.quantization import quantize_4bit

    weight = quantize_4bit(dense)
    assert weight.nested_scales is not None and weight.offset is not None
    nested = NestedScales(weight.nested_scales, weight.offset)
    rows, columns = dense.shape
    matrix = Matrix4bit(weight.codes, weight.scales, nested, rows, columns)
    return lambda x: linear_4bit(x, [matrix])


def bitsandbytes(dense: Tensor) -> Product:
    from bitsandbytes import functional
    from bitsandbytes.autograd._functions import matmul_4bit

    codes, state = functional.quantize_4bit(dense, quant_type="nf4", compress_statistics=True)
    return lambda x: matmul_4bit(x, codes.t(), state)


def sixteen_bits(dense: Tensor) -> Product:
    """What the 4-bit product saves or costs beside the plain one."""
    return lambda x: x @ dense.T


@torch.inference_mode()
def measure(make: Make, quantized: bool, setting: Setting) -> Rows:
    rows = {}
    for outputs, inputs in SHAPES:
        dense = torch.randn(outputs, inputs, device=setting.device, dtype=torch.bfloat16)
        rows |= _measure_one(dense, make, quantized, setting)
    return rows


def _measure_one(dense: Tensor, make: Make, quantized: bool, setting: Setting) -> Rows:
    from quatrain.quantization import quantize_4bit

    outputs, inputs = dense.shape
    products = [make(dense.clone()) for _ in range(ROTATION)]
    weight = (quantize_4bit(dense).dequantize(torch.float32) if quantized else dense.float()).cpu()
    rows = {}
    for m in ROWS:
        x = torch.randn(m, inputs, device=setting.device, dtype=torch.bfloat16)
        label = _label(outputs, inputs, m)
        error = relative_error(products[0](x).cpu(), x.float().cpu() @ weight.T)
        if not error <= TOLERANCE:
            raise Wrong(f"{label}: relative error {error:.1e} against float32 (at most {TOLERANCE})")
        samples = _times(products, x, setting)
        rows[label] = Row(samples_ms=samples, flops=2 * m * outputs * inputs, values={"error": error})
    return rows


def _times(products: list[Product], x: Tensor, setting: Setting) -> list[float]:
    return kernel_ms(lambda i: products[i](x), rotation=ROTATION, launches=LAUNCHES, rounds=setting.repetitions(9))


def floor(ceilings: Figures) -> Figures:
    rate = copy_rate(ceilings)
    return {
        _label(outputs, inputs, m): {"ms": product_floor_ms(m, outputs, inputs, rate)}
        for outputs, inputs in SHAPES
        for m in ROWS
    }


def _label(outputs: int, inputs: int, m: int) -> str:
    return f"{outputs}×{inputs}, M = {m}"


CONTENDERS: dict[Contender, tuple[Make, bool]] = {
    BITSANDBYTES: (bitsandbytes, True),
    SIXTEEN_BITS: (sixteen_bits, False),
    QUATRAIN: (quatrain, True),
}

CASES = (
    Case(
        name="product_4bit",
        kind=KIND,
        title="",
        contenders={who: Play(partial(measure, *how)) for who, how in CONTENDERS.items()},
        device="cuda",
        options={"shapes": SHAPES, "rotation": ROTATION},
        target={_label(*SHAPES[0], 1): {"ms": 0.014}},
        floor=floor,
        limit_s=120,
    ),
)
