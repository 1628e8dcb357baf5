"""Throughput of the 4-bit kernels on a GPU, with double quantization, in TB/s of bytes that must move.

Contestants on each shape: the shipped kernel; the same kernel with its codebook in registers (``tl.gather``) instead
of in the first-level cache; a plain copy that moves as many bytes, which is the ceiling; bitsandbytes, if it is
installed. Each result is checked against the PyTorch reference before it is timed. Launches queue up behind a
sleeping kernel, so that the host's time isn't measured; buffers rotate, so that no result stays in the second-level
cache.
"""

import statistics
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from quatrain.ops.codebooks import codebook, dynamic_map
from quatrain.ops.dequantize_4bit import NESTED_BLOCK_SIZE, NestedScales, reference
from quatrain.ops.dequantize_4bit.triton import TILE
from quatrain.quantization import QuantizedTensor, quantize_4bit

# Triton compiles the syntax tree; what its names are to Python tells a type checker nothing.
# pyright: reportArgumentType=false, reportCallIssue=false

SHAPES = [(4096, 4096), (4096, 14336), (28672, 8192)]
ROTATION = 4
LAUNCHES = 16


@triton.jit
def _gathering_kernel(
    codes_ptr, scales_ptr, nested_ptr, offset_ptr, codebook_ptr, map_ptr, out_ptr, N: tl.constexpr, P: tl.constexpr
):
    """The shipped kernel for full tiles, with the codebook as a tensor in registers."""
    first_block = tl.program_id(0).to(tl.int64) * N
    row_N1 = tl.arange(0, N)[:, None]
    codes_NP = tl.load(codes_ptr + first_block * P + row_N1 * P + tl.arange(0, P)[None, :])
    table = tl.load(codebook_ptr + tl.arange(0, 16))
    flat = tl.reshape(codes_NP, (N * P,)).to(tl.int32)
    high_NP = tl.reshape(tl.gather(table, flat >> 4, axis=0), (N, P))
    low_NP = tl.reshape(tl.gather(table, flat & 15, axis=0), (N, P))
    nested_N1 = tl.load(nested_ptr + (first_block + row_N1) // 256)
    scale_N1 = tl.load(map_ptr + tl.load(scales_ptr + first_block + row_N1).to(tl.int32)) * nested_N1
    scale_N1 += tl.load(offset_ptr)
    value_NE = tl.interleave(high_NP * scale_N1, low_NP * scale_N1)
    element_NE = row_N1 * 2 * P + tl.arange(0, 2 * P)[None, :]
    tl.store(out_ptr + first_block * 2 * P + element_NE, value_NE.to(out_ptr.dtype.element_ty))


def _by_gather(weight: QuantizedTensor, out: Tensor) -> None:
    _gathering_kernel[(weight.numel // TILE,)](
        weight.codes,
        weight.scales,
        weight.nested_scales,
        weight.offset,
        codebook(weight.quant_type, weight.device),
        dynamic_map(True, weight.device),
        out,
        N=TILE // weight.block_size,
        P=weight.block_size // 2,
        enable_fp_fusion=False,
    )


def _expected(weight: QuantizedTensor) -> Tensor:
    assert weight.nested_scales is not None and weight.offset is not None and NESTED_BLOCK_SIZE == 256
    return reference.dequantize_4bit(
        weight.codes,
        weight.scales,
        numel=weight.numel,
        quant_type=weight.quant_type,
        block_size=weight.block_size,
        dtype=torch.bfloat16,
        nested=NestedScales(weight.nested_scales, weight.offset),
    ).view(weight.shape)


def _milliseconds(launch: Callable[[int], object]) -> float:
    """Median over five rounds of the time of one launch; ``launch(i)`` uses the i-th set of buffers."""
    rounds = []
    for _ in range(6):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(20_000_000)
        start.record()
        for i in range(LAUNCHES):
            launch(i % ROTATION)
        end.record()
        end.synchronize()
        rounds.append(start.elapsed_time(end) / LAUNCHES)
    return statistics.median(rounds[1:])


def _measure(shape: tuple[int, int]) -> dict[str, float]:
    dense = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    weight = quantize_4bit(dense)
    weights = [weight.map(torch.clone) for _ in range(ROTATION)]
    outs = [torch.empty_like(dense) for _ in range(ROTATION)]
    expected = _expected(weight)
    moved = weight.nbytes + dense.nbytes
    half = torch.empty(ROTATION, moved // 2, device="cuda", dtype=torch.uint8)
    source = torch.empty_like(half)

    def shipped(i: int) -> None:
        weights[i].dequantize(out=outs[i])

    def gathered(i: int) -> None:
        _by_gather(weights[i], outs[i])

    contestants: dict[str, Callable[[int], object]] = {"shipped": shipped, "gather": gathered}
    for name, launch in contestants.items():
        outs[0].fill_(float("nan"))
        launch(0)
        if not torch.equal(outs[0], expected):
            raise SystemExit(f"{name} computes other values than the reference on {shape}")
    contestants["copy"] = lambda i: half[i].copy_(source[i])
    contestants |= _bitsandbytes(dense, outs)
    result = {name: round(moved / _milliseconds(launch) / 1e9, 3) for name, launch in contestants.items()}
    quantizing = _milliseconds(lambda i: quantize_4bit(outs[i]))
    return result | {"quantize_4bit": round(moved / quantizing / 1e9, 3)}


def _bitsandbytes(dense: Tensor, outs: list[Tensor]) -> dict[str, Callable[[int], object]]:
    try:
        from bitsandbytes import functional
    except ImportError:
        return {}
    stored = [functional.quantize_4bit(dense, quant_type="nf4", compress_statistics=True) for _ in outs]
    return {"bitsandbytes": lambda i: functional.dequantize_4bit(*stored[i])}


def run() -> dict:
    """TB/s of bytes that must move, by matrix and contestant."""
    rates = {}
    for shape in SHAPES:
        rates[f"{shape[0]}×{shape[1]}"] = _measure(shape)
        print(" ", shape, rates[f"{shape[0]}×{shape[1]}"], flush=True)
    return {"case": "Dequantizing NF4 with double quantization to bfloat16", "terabytes_per_second": rates}
