"""A few rows times 4-bit weights, both twins, against float64 products of the dequantized weights."""

from typing import Any

import pytest
import torch

from quatrain.errors import QuantizationError
from quatrain.ops.dequantize_4bit import NestedScales
from quatrain.ops.linear_4bit import LowRank, Matrix4bit, linear_4bit, reference
from quatrain.ops.linear_4bit import triton as kernel
from quatrain.quantization import QuantizedTensor, quantize_4bit

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

twins = pytest.mark.parametrize("twin", [reference, kernel], ids=["reference", "triton"])
dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)


def skip_what_the_interpreter_cannot(twin: Any, dtype: torch.dtype) -> None:
    if twin is kernel and DEVICE == "cpu" and dtype is torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 as integers")


def quantized(rows: int, columns: int, **options: Any) -> QuantizedTensor:
    return quantize_4bit(torch.randn(rows, columns, device=DEVICE) * 0.05, **options)


def matrix(weight: QuantizedTensor) -> Matrix4bit:
    nested = None
    if weight.nested_scales is not None and weight.offset is not None:
        nested = NestedScales(weight.nested_scales, weight.offset)
    rows, columns = weight.shape
    return Matrix4bit(
        weight.codes, weight.scales, nested, rows, columns, quant_type=weight.quant_type, block_size=weight.block_size
    )


def rows_of(count: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Random rows that lie apart."""
    return torch.randn(count, columns + 16, device=DEVICE).to(dtype)[:, :columns]


def assert_close(out: torch.Tensor, x: torch.Tensor, weights: list[QuantizedTensor], more: Any = 0.0) -> None:
    """Within what rounding each weight and the result to the dtype costs."""
    exact = torch.cat([x.double() @ weight.dequantize(torch.float32).double().T for weight in weights], dim=1) + more
    size = torch.cat(
        [x.double().abs() @ weight.dequantize(torch.float32).double().abs().T for weight in weights], dim=1
    )
    eps = max(torch.finfo(out.dtype).eps, 1e-6)
    bad = (out.double() - exact).abs() > eps * (exact.abs() + 0.5 * size)
    assert not bad.any() and not out.isnan().any()
    assert (out.double() - exact).norm() <= eps * exact.norm()


# Rows of x, rows and columns of the weight: odd ones, fewer chunks than slices, slices of unequal length.
SHAPES = [(1, 16, 128), (3, 37, 1024), (5, 48, 1280), (8, 5, 2304), (17, 33, 384), (32, 16, 1024)]


@twins
@dtypes
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("double_quant", [True, False])
def test_product(twin: Any, dtype, shape, double_quant):
    skip_what_the_interpreter_cannot(twin, dtype)
    tokens, rows, columns = shape
    weight, x = quantized(rows, columns, double_quant=double_quant), rows_of(tokens, columns, dtype)
    out = torch.full((tokens, rows + 3), float("nan"), device=DEVICE, dtype=dtype)
    twin.linear_4bit(x, [matrix(weight)], bias_N=None, low_rank=None, out=out[:, :rows])
    assert_close(out[:, :rows], x, [weight])
    assert out[:, rows:].isnan().all(), "wrote beyond its columns"


@twins
@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int4"])
@pytest.mark.parametrize("block_size", [64, 128])
def test_codebooks_and_blocks(twin: Any, quant_type, block_size):
    weight, x = quantized(20, 256, quant_type=quant_type, block_size=block_size), rows_of(2, 256, torch.float16)
    out = torch.full((2, 20), float("nan"), device=DEVICE, dtype=torch.float16)
    twin.linear_4bit(x, [matrix(weight)], bias_N=None, low_rank=None, out=out)
    assert_close(out, x, [weight])


@twins
def test_columns_that_are_not_whole_chunks(twin: Any):
    weight, x = quantized(20, 192), rows_of(2, 192, torch.float16)
    out = torch.full((2, 20), float("nan"), device=DEVICE, dtype=torch.float16)
    twin.linear_4bit(x, [matrix(weight)], bias_N=None, low_rank=None, out=out)
    assert_close(out, x, [weight])


@twins
@dtypes
@pytest.mark.parametrize("heights", [(40, 7), (16, 33, 5)])
def test_several_weights_with_adapters_and_bias(twin: Any, dtype, heights):
    skip_what_the_interpreter_cannot(twin, dtype)
    tokens, columns, ranks, runs = 5, 512, (20, 0, 8), 3
    weights, x = [quantized(rows, columns) for rows in heights], rows_of(tokens, columns, dtype)
    sums = torch.randn(runs, tokens, sum(ranks), device=DEVICE)
    bias = torch.randn(sum(heights), device=DEVICE).to(dtype)
    updates, more, first = [], [], 0
    for rows, rank in zip(heights, ranks, strict=False):
        b = torch.randn(rows, rank, device=DEVICE).to(dtype)
        h = sums[..., first : first + rank]
        updates.append(LowRank(h, b) if rank else None)
        more.append(h.double().sum(0) @ b.double().T)
        first += rank
    out = torch.full((tokens, sum(heights)), float("nan"), device=DEVICE, dtype=dtype)
    twin.linear_4bit(x, [matrix(weight) for weight in weights], bias_N=bias, low_rank=updates, out=out)
    assert_close(out, x, weights, torch.cat(more, dim=1) + bias.double())


def test_misuse_is_refused():
    weight, x = matrix(quantized(16, 128)), rows_of(2, 128, torch.float32)
    with pytest.raises(QuantizationError, match="one to three weights"):
        linear_4bit(x, [])
    with pytest.raises(QuantizationError, match="at most 32 rows, got 33"):
        linear_4bit(rows_of(33, 128, torch.float32), [weight])
    with pytest.raises(QuantizationError, match="quantized alike"):
        linear_4bit(x, [weight, matrix(quantized(16, 128, double_quant=False))])
    with pytest.raises(QuantizationError, match="as many columns as x_MK, 128, got 256"):
        linear_4bit(x, [matrix(quantized(16, 256))])
    with pytest.raises(QuantizationError, match="codes must be"):
        linear_4bit(x, [weight._replace(codes=weight.codes[1:])])
    with pytest.raises(QuantizationError, match=r"out must be \[2, 16\]"):
        linear_4bit(x, [weight], out=torch.empty(2, 17, device=DEVICE))


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 8, 32])
@pytest.mark.parametrize("shape", [(4096, 14336), (14336, 4096), (1000, 1536)])
def test_whole_weights_on_a_gpu_and_again_the_same_bits(shape, tokens):
    weight, x = quantized(*shape), rows_of(tokens, shape[1], torch.bfloat16)
    out = linear_4bit(x, [matrix(weight)])
    assert_close(out, x, [weight])
    assert torch.equal(out, linear_4bit(x, [matrix(weight)]))


@pytest.mark.gpu
def test_tensors_on_a_gpu_take_the_kernel(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference ran on a GPU")

    monkeypatch.setattr(reference, "linear_4bit", refuse)
    linear_4bit(rows_of(2, 256, torch.bfloat16), [matrix(quantized(32, 256))])
