"""The Triton kernels against their PyTorch twins, bit for bit: on a GPU, or in Triton's interpreter without one."""

import numpy as np
import pytest
import torch

from quatrain.ops.codebooks import codebook, midpoints
from quatrain.ops.dequantize_4bit import NestedScales, dequantize_4bit
from quatrain.ops.dequantize_4bit import reference as dequantize_4bit_reference
from quatrain.ops.dequantize_4bit import triton as dequantize_4bit_kernel
from quatrain.ops.dequantize_8bit import reference as dequantize_8bit_reference
from quatrain.ops.dequantize_8bit import triton as dequantize_8bit_kernel
from quatrain.ops.quantize_4bit import quantize_4bit
from quatrain.ops.quantize_4bit import reference as quantize_4bit_reference
from quatrain.ops.quantize_4bit import triton as quantize_4bit_kernel
from quatrain.ops.quantize_8bit import quantize_8bit
from quatrain.ops.quantize_8bit import reference as quantize_8bit_reference
from quatrain.ops.quantize_8bit import triton as quantize_8bit_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [
    1,
    63,
    4096,
    4097,
    8191,
]  # less than a byte pair, an odd end, a full tile, one more, an odd end in a second tile
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def fresh_memory_is_nan():
    """``torch.empty`` is filled with NaN (255 in bytes): an element that a kernel forgets doesn't pass by luck."""
    torch.use_deterministic_algorithms(True)
    with np.errstate(divide="ignore", invalid="ignore"):  # blocks of zeros, in the interpreter
        yield
    torch.use_deterministic_algorithms(False)


def values(numel: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(numel, device=DEVICE) * 0.02
    x[: numel // 3] = 0
    return x.to(dtype)


def as_stored_by_the_device(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 ``values`` in ``dtype``; Triton's interpreter cuts bfloat16 off where hardware rounds."""
    if dtype is torch.bfloat16 and DEVICE == "cpu":
        return (values.view(torch.int32) & -65536).view(torch.float32).to(dtype)
    return values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int4"])
def test_quantize_4bit(quant_type, block_size, dtype):
    for numel in SIZES:
        x = values(numel, dtype)
        codes, scales = quantize_4bit_kernel.quantize_4bit(x, quant_type=quant_type, block_size=block_size)
        expected = quantize_4bit_reference.quantize_4bit(x, quant_type=quant_type, block_size=block_size)
        assert torch.equal(codes, expected[0]) and torch.equal(scales, expected[1])


@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int4"])
def test_4bit_codes_change_at_the_midpoints_and_nowhere_else(quant_type):
    """Quotients at every midpoint and value, the floats on both sides of them, and small ones around zero."""
    special = torch.cat(
        [midpoints(quant_type), codebook(quant_type), torch.tensor([0.0, 1e-30, 1e-7, 6e-6, 7e-6, 1e-3])]
    )
    special = torch.cat([special, -special])
    special = special[special.abs() <= 1]
    above, below = torch.tensor(2.0), torch.tensor(-2.0)
    quotients = torch.cat([special, special.nextafter(above), special.nextafter(below)]).clamp(-1, 1)
    blocks = torch.nn.functional.pad(quotients, (0, -len(quotients) % 63)).view(-1, 63)
    for largest in (1.0, -1.0):  # the last of each block, so that its scale is one
        x = torch.nn.functional.pad(blocks, (0, 1), value=largest).to(DEVICE)
        whole_tiles = x.repeat(64, 1)  # 32 blocks are a tile
        for values in (x, whole_tiles):
            codes, _ = quantize_4bit_kernel.quantize_4bit(values, quant_type=quant_type, block_size=64)
            expected, _ = quantize_4bit_reference.quantize_4bit(values, quant_type=quant_type, block_size=64)
            assert torch.equal(codes, expected)


@pytest.mark.parametrize("block_size", [64, 256])
def test_8bit_codes_of_what_is_left_of_an_offset(block_size):
    for numel in SIZES:
        x, offset = values(numel).abs(), torch.rand((), device=DEVICE) * 0.02
        options = {"block_size": block_size, "signed": True, "offset": offset}
        codes, scales = quantize_8bit_kernel.quantize_8bit(x, **options)
        expected = quantize_8bit_reference.quantize_8bit(x - offset, block_size=block_size, signed=True)
        assert torch.equal(codes, expected[0]) and torch.equal(scales, expected[1])
        assert all(map(torch.equal, quantize_8bit_reference.quantize_8bit(x, **options), expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("signed", [True, False])
def test_quantize_and_dequantize_8bit(signed, dtype):
    for numel in SIZES:
        x = values(numel, dtype)
        codes, scales = quantize_8bit_kernel.quantize_8bit(x, block_size=256, signed=signed)
        expected = quantize_8bit_reference.quantize_8bit(x, block_size=256, signed=signed)
        assert torch.equal(codes, expected[0]) and torch.equal(scales, expected[1])

        shape = {"block_size": 256, "signed": signed}
        back = dequantize_8bit_kernel.dequantize_8bit(codes, scales, dtype=dtype, **shape)
        exact = dequantize_8bit_reference.dequantize_8bit(codes, scales, dtype=torch.float32, **shape)
        assert torch.equal(back, as_stored_by_the_device(exact, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("double_quant", [True, False])
def test_dequantize_4bit(double_quant, block_size, dtype):
    for numel in [*SIZES, 32 * 300]:
        codes, scales = quantize_4bit_reference.quantize_4bit(values(numel), quant_type="nf4", block_size=block_size)
        nested = None
        if double_quant:
            offset = scales.mean()
            scales, nested_scales = quantize_8bit_reference.quantize_8bit(scales - offset, block_size=256, signed=True)
            nested = NestedScales(nested_scales, offset)
        options = {"numel": numel, "quant_type": "nf4", "block_size": block_size, "nested": nested}
        exact = dequantize_4bit_reference.dequantize_4bit(codes, scales, dtype=torch.float32, **options)
        out = torch.full((numel,), float("nan"), dtype=dtype, device=DEVICE)
        returned = dequantize_4bit_kernel.dequantize_4bit(codes, scales, dtype=dtype, out=out, **options)
        assert returned is out
        assert torch.equal(out, as_stored_by_the_device(exact, dtype))


@pytest.mark.parametrize("twin", [dequantize_4bit_reference, dequantize_4bit_kernel], ids=["reference", "kernel"])
@pytest.mark.parametrize(
    ("shape", "block_size"),
    [((5, 4096), 64), ((70, 192), 64), ((3, 64), 32), ((1, 64), 64), ((33, 100), 64), ((9, 64), 128)],
    ids=str,
)
def test_dequantize_4bit_into_rows_that_lie_apart(shape, block_size, twin):
    rows, columns = shape
    codes, scales = quantize_4bit_reference.quantize_4bit(
        values(rows * columns), quant_type="nf4", block_size=block_size
    )
    options = {"numel": rows * columns, "quant_type": "nf4", "block_size": block_size, "dtype": torch.float32}
    scratch = torch.full((rows + 1, columns + 48), float("nan"), device=DEVICE)
    out = scratch[:rows, 16 : 16 + columns]
    twin.dequantize_4bit(codes, scales, out=out, **options)
    expected = dequantize_4bit_reference.dequantize_4bit(codes, scales, **options)
    assert torch.equal(out, expected.view(shape))
    assert scratch.isnan().sum() == scratch.numel() - out.numel()


def test_a_value_that_is_not_finite_shows_in_its_scale():
    for bad in (float("nan"), float("inf")):
        x = values(300)
        x[70] = bad
        for scales in (
            quantize_4bit_kernel.quantize_4bit(x, quant_type="nf4", block_size=64)[1],
            quantize_8bit_kernel.quantize_8bit(x, block_size=64, signed=True)[1],
        ):
            assert scales.isfinite().tolist() == [True, False, True, True, True]


@pytest.mark.gpu
def test_tensors_on_a_gpu_take_the_kernels(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference ran on a GPU")

    monkeypatch.setattr(quantize_4bit_reference, "quantize_4bit", refuse)
    monkeypatch.setattr(quantize_8bit_reference, "quantize_8bit", refuse)
    monkeypatch.setattr(dequantize_4bit_reference, "dequantize_4bit", refuse)
    codes, scales = quantize_4bit(values(1000))
    dequantize_4bit(codes, scales, numel=1000)
    quantize_8bit(values(1000))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4096, 14336), (1000, 1001)])
def test_whole_weights_on_a_gpu_equal_the_cpu(shape):
    x = torch.randn(shape, dtype=torch.bfloat16)
    for quant_type in ("nf4", "fp4"):
        codes, scales = quantize_4bit(x, quant_type=quant_type)
        on_gpu = quantize_4bit(x.cuda(), quant_type=quant_type)
        assert torch.equal(codes, on_gpu[0].cpu()) and torch.equal(scales, on_gpu[1].cpu())
        options = {"numel": x.numel(), "quant_type": quant_type, "dtype": torch.bfloat16}
        assert torch.equal(dequantize_4bit(codes, scales, **options), dequantize_4bit(*on_gpu, **options).cpu())


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    numel = 2**32 + 4097
    codes = torch.randint(0, 256, ((numel + 1) // 2,), dtype=torch.uint8, device="cuda")
    scales = torch.rand(-(-numel // 64), device="cuda")
    out = dequantize_4bit(codes, scales, numel=numel, dtype=torch.bfloat16)
    tail = 2**32 - 64  # the last elements, decoded on their own
    expected = dequantize_4bit(codes[tail // 2 :], scales[tail // 64 :], numel=numel - tail, dtype=torch.bfloat16)
    assert torch.equal(out[tail:], expected)
    requantized, _ = quantize_4bit(out, quant_type="nf4")
    assert torch.equal(requantized[tail // 2 :], quantize_4bit(out[tail:], quant_type="nf4")[0])
