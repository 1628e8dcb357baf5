"""The quantized tensor: bytes of double quantization, size, moving."""

from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import quatrain
from quatrain.errors import QuantizationError
from quatrain.ops.checks import BLOCK_SIZES
from quatrain.quantization import check_finite_weights, quantize_4bit


def theirs(x: torch.Tensor, quant_type: str, block_size: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, Any]:
    """What bitsandbytes makes of ``x``: under our names, and as its own codes and state."""
    state: Any
    codes, state = bnb.quantize_4bit(x, quant_type=quant_type, blocksize=block_size, compress_statistics=True)
    tensors = {
        "codes": codes.view(-1),
        "scales": state.absmax,
        "nested_scales": state.state2.absmax,
        "offset": state.offset,
    }
    return tensors, codes, state


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=3).filter(lambda shape: torch.Size(shape).numel() < 200_000),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from(BLOCK_SIZES),
    st.sampled_from(["nf4", "fp4"]),
    st.integers(0, 2**32),
)
def test_codes_scales_nested_scales_and_offset_are_those_of_bitsandbytes(shape, dtype, block_size, quant_type, seed):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    expected, _, _ = theirs(x, quant_type, block_size)
    ours = quantize_4bit(x, quant_type, block_size).tensors()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_large_weight_equals_bitsandbytes_and_takes_4_127_bits():
    x = torch.randn(4096, 4096, dtype=torch.bfloat16)
    ours = quatrain.quantize_4bit(x)
    expected, codes, state = theirs(x, "nf4", 64)
    assert all(torch.equal(ours.tensors()[name], expected[name]) for name in expected)
    assert torch.equal(ours.dequantize(), bnb.dequantize_4bit(codes, state))
    expected_bytes = 4096 * 4096 // 2 + 4096 * 64 + 4096 * 64 // 256 * 4 + 4
    assert ours.nbytes == expected_bytes
    assert round(ours.bits_per_parameter, 3) == 4.127
    assert quantize_4bit(x, double_quant=False).bits_per_parameter == 4.5


@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int4"])
def test_error_of_normal_weights_stays_where_the_paper_puts_it(quant_type):
    """Root mean square error over the standard deviation; NF4 is the best of the three on normal values."""
    x = torch.randn(256, 256)
    error = (quantize_4bit(x, quant_type).dequantize() - x).square().mean().sqrt()
    assert error < {"nf4": 0.10, "fp4": 0.125, "int4": 0.11}[quant_type]


def test_dequantize_gives_the_type_asked_for_or_the_original_one():
    x = torch.randn(5, 7, dtype=torch.float16)
    weight = quantize_4bit(x)
    assert weight.dequantize().dtype is torch.float16 and weight.dequantize().shape == (5, 7)
    exact = weight.dequantize(torch.float32)
    assert torch.equal(weight.dequantize(torch.bfloat16), exact.bfloat16())
    out = torch.empty(5, 7, dtype=torch.bfloat16)
    assert torch.equal(weight.dequantize(out=out), exact.bfloat16()) and torch.equal(out, exact.bfloat16())


def test_dequantize_writes_into_what_is_given():
    """Of any shape when contiguous; a matrix also beside other columns, which stay as they are."""
    x = torch.randn(3, 5, 7)
    weight, out = quantize_4bit(x), torch.full_like(x, float("nan"))
    assert torch.equal(weight.dequantize(out=out), weight.dequantize()) and not out.isnan().any()
    for columns in (128, 50):
        weight = quantize_4bit(torch.randn(6, columns))
        scratch = torch.full((6, columns + 3), float("nan"), dtype=torch.bfloat16)
        assert torch.equal(weight.dequantize(out=scratch[:, :columns]), weight.dequantize(torch.bfloat16))
        assert scratch[:, columns:].isnan().all()


def test_out_must_fit():
    weight = quantize_4bit(torch.randn(6, 64))
    wide = torch.empty(6, 128)
    for out in (torch.empty(64, 6), torch.empty(64, 6).T, wide[:, ::2], wide[:1, :64].expand(6, 64)):
        with pytest.raises(QuantizationError, match="out must"):
            weight.dequantize(out=out)


def test_a_view_is_quantized_in_its_own_order():
    x = torch.randn(60, 50)
    assert torch.equal(quantize_4bit(x.T).dequantize(), quantize_4bit(x.T.contiguous()).dequantize())


def test_moving_keeps_every_tensor_together():
    weight = quantize_4bit(torch.randn(64, 64))
    moved = weight.to("meta")
    assert [tensor.device.type for tensor in moved.tensors().values()] == ["meta"] * 4
    assert weight.device.type == "cpu" and moved.shape == weight.shape and moved.nbytes == weight.nbytes


def test_scales_too_large_for_their_mean_are_refused():
    with pytest.raises(QuantizationError, match="finite"):
        quantize_4bit(torch.full((64, 64), 3e38))


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_many_weights_are_checked_at_once_and_named(double_quant, bad):
    def quantized(damaged: bool):
        x = torch.randn(40, 64)
        x[30, 7] = bad if damaged else 0
        return quantize_4bit(x, double_quant=double_quant, check_finite=False)

    check_finite_weights({"a": quantized(False), "b": quantized(False)})
    check_finite_weights({})
    with pytest.raises(QuantizationError, match=r"^b, d must be finite"):
        check_finite_weights({name: quantized(name in "bd") for name in "abcde"})
    with pytest.raises(QuantizationError, match=r"^0, 1, 2, 3, 4 and 3 more must be finite"):
        check_finite_weights({str(i): quantized(True) for i in range(8)})
