"""Dequantizing NF4 with double quantization to bfloat16, in bytes that must move per second."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.case import BITSANDBYTES, COPY, QUATRAIN, Case, Contender, Figures, Kind, Play, Row, Rows, Setting
from benchmarks.case import WrongResult as Wrong
from benchmarks.floor import BYTES_DEQUANTIZED, copy_rate
from benchmarks.gate import relative_error
from benchmarks.timing import kernel_ms

KIND = Kind(
    title="Dequantizing NF4 with double quantization to bfloat16",
    note="Buffers rotate and launches queue up, so that neither the cache nor the host is measured. Floor: the bytes "
    "at the speed of a large copy.",
    shows=("terabytes_per_second",),
)
SHAPES = ((4096, 4096), (4096, 14336), (28672, 8192))
ROTATION = 4

Launch = Callable[[int], object]
Make = Callable[[Tensor, list[Tensor]], Launch]
"""(bfloat16 matrix, output buffers) → launch number i, which writes output i modulo the rotation."""


def quatrain(dense: Tensor, outs: list[Tensor]) -> Launch:
    """Equal to the reference to the last bit."""
    from quatrain.ops.dequantize_4bit import NestedScales, reference
    from quatrain.quantization import quantize_4bit

    weights = [quantize_4bit(dense) for _ in outs]
    weight = weights[0]
    assert weight.nested_scales is not None and weight.offset is not None
    expected = reference.dequantize_4bit(
        weight.codes,
        weight.scales,
        numel=weight.numel,
        quant_type=weight.quant_type,
        block_size=weight.block_size,
        dtype=torch.bfloat16,
        nested=NestedScales(weight.nested_scales, weight.offset),
    )
    weight.dequantize(out=outs[0].fill_(float("nan")))
    if not torch.equal(outs[0].view(-1), expected):
        raise Wrong(f"other values than the reference's for {list(dense.shape)}")
    return lambda i: weights[i].dequantize(out=outs[i])


def bitsandbytes(dense: Tensor, outs: list[Tensor]) -> Launch:
    from bitsandbytes import functional

    from quatrain.quantization import quantize_4bit

    stored = [functional.quantize_4bit(dense, quant_type="nf4", compress_statistics=True) for _ in outs]
    error = relative_error(functional.dequantize_4bit(*stored[0]), quantize_4bit(dense).dequantize())
    if not error <= 4e-3:
        raise Wrong(f"relative error {error:.1e} against the reference for {list(dense.shape)}")
    return lambda i: functional.dequantize_4bit(*stored[i])


def copy(dense: Tensor, outs: list[Tensor]) -> Launch:
    """A copy that reads and writes as many bytes in all: what the memory can do with this size."""
    half = torch.empty(len(outs), int(dense.numel() * BYTES_DEQUANTIZED) // 2, device=dense.device, dtype=torch.uint8)
    source = torch.zeros_like(half)
    return lambda i: half[i].copy_(source[i])


def measure(make: Make, setting: Setting) -> Rows:
    rows = {}
    for shape in SHAPES:
        dense = torch.randn(shape, device=setting.device, dtype=torch.bfloat16)
        outs = [torch.empty_like(dense) for _ in range(ROTATION)]
        samples = kernel_ms(make(dense, outs), rotation=ROTATION, rounds=setting.repetitions(9))
        rows[_label(shape)] = Row(samples_ms=samples, bytes=int(dense.numel() * BYTES_DEQUANTIZED))
    return rows


def floor(ceilings: Figures) -> Figures:
    rate = copy_rate(ceilings)
    moved = {_label(shape): shape[0] * shape[1] * BYTES_DEQUANTIZED for shape in SHAPES}
    return {label: {"terabytes_per_second": rate / 1e12, "ms": 1e3 * size / rate} for label, size in moved.items()}


def _label(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"


CONTENDERS: dict[Contender, Make] = {BITSANDBYTES: bitsandbytes, COPY: copy, QUATRAIN: quatrain}

CASES = (
    Case(
        name="dequantize",
        kind=KIND,
        title="",
        contenders={who: Play(partial(measure, make)) for who, make in CONTENDERS.items()},
        device="cuda",
        options={"shapes": SHAPES, "rotation": ROTATION},
        target={_label(shape): {"terabytes_per_second": 3.5} for shape in SHAPES[1:]},
        floor=floor,
        limit_s=120,
    ),
)
