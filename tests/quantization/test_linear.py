"""The quantized linear layer: values, gradients, memory, casts, copies and saved state."""

import copy
import pickle
import weakref

import pytest
import torch
from torch import nn

from quatrain.errors import QuantizationError
from quatrain.quantization import QuantizedLinear, QuantizedTensor, quantize_4bit


def layer(in_features=100, out_features=37, bias=True, **options) -> QuantizedLinear:
    return QuantizedLinear.from_linear(nn.Linear(in_features, out_features, bias=bias), **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (1,), (3, 5)])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int4"])
def test_values_and_gradients_are_those_of_a_linear_with_the_dequantized_weight(quant_type, leading, bias):
    ours = layer(bias=bias, quant_type=quant_type)
    plain = nn.Linear(100, 37, bias=bias)
    plain.weight.data = ours.weight
    if plain.bias is not None and ours.bias is not None:
        plain.bias.data = ours.bias.data.clone()
    x, y = (torch.randn(*leading, 100).requires_grad_() for _ in range(2))
    y.data = x.data.clone()
    gradient = torch.randn(*leading, 37)
    ours(x).backward(gradient)
    plain(y).backward(gradient)
    torch.testing.assert_close(ours(x), plain(y))
    torch.testing.assert_close(x.grad, y.grad)
    if plain.bias is not None and ours.bias is not None:
        torch.testing.assert_close(ours.bias.grad, plain.bias.grad)


def test_a_frozen_bias_and_an_input_without_gradient_cost_no_backward():
    ours = layer()
    assert ours.bias is not None
    ours.bias.requires_grad_(False)
    assert not ours(torch.randn(2, 100)).requires_grad
    x = torch.randn(2, 100, requires_grad=True)
    ours(x).sum().backward()
    assert ours.bias.grad is None and x.grad is not None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (3,), (3, 5), (0, 5)])
def test_the_result_may_be_updated_in_place(leading, bias):
    x = torch.randn(*leading, 100, requires_grad=True)
    y = layer(bias=bias)(x)
    assert not y._is_view() and y.is_contiguous()
    y.add_(1).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


def test_no_dequantized_copy_lives_between_forward_and_backward(monkeypatch):
    made: list[weakref.ref] = []
    dequantize = QuantizedTensor.dequantize

    def recorded(self, *args, **kwargs):
        result = dequantize(self, *args, **kwargs)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr(QuantizedTensor, "dequantize", recorded)
    saved: list[torch.Tensor] = []
    ours = layer()
    x = torch.randn(4, 100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = ours(x)
    assert len(made) == 1 and made[0]() is None
    assert not saved
    y.sum().backward()
    assert len(made) == 2 and made[1]() is None


def test_buffers_take_4_127_bits_per_parameter():
    ours = layer(1024, 1024, bias=False)
    assert not list(ours.parameters())
    stored = sum(buffer.nbytes for buffer in ours.buffers())
    assert stored == ours.quantized.nbytes
    assert 8 * stored / 1024**2 == pytest.approx(4.127, abs=5e-4)


def test_types_compute_in_compute_dtype_and_answer_in_the_type_of_the_input():
    ours = layer(compute_dtype=torch.bfloat16)
    assert ours.weight.dtype is torch.bfloat16
    assert ours(torch.randn(2, 100)).dtype is torch.float32
    assert ours(torch.randn(2, 100, dtype=torch.float16)).dtype is torch.float16
    x = torch.randn(2, 100, requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None and x.grad.dtype is torch.float32


def test_autocast_decides_the_type():
    ours = layer()
    x = torch.randn(2, 100, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x)
        expected = nn.functional.linear(x, ours.weight, ours.bias)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype is torch.float32


@pytest.mark.parametrize(
    ("cast", "dtype"),
    [
        (lambda m: m.half(), torch.float16),
        (lambda m: m.bfloat16(), torch.bfloat16),
        (lambda m: m.to(torch.float16), torch.float16),
        (lambda m: m.bfloat16().float(), torch.float32),
    ],
)
@pytest.mark.parametrize("double_quant", [True, False])
def test_casting_the_model_changes_the_compute_dtype_and_no_stored_bit(cast, dtype, double_quant):
    ours = layer(double_quant=double_quant)
    model = nn.Sequential(ours)
    before = ours.quantized.map(torch.clone)
    cast(model)
    after = ours.quantized
    assert torch.equal(after.codes, before.codes) and torch.equal(after.scales, before.scales)
    assert torch.equal(after.dequantize(torch.float32), before.dequantize(torch.float32))
    assert ours.compute_dtype is dtype and ours.bias is not None and ours.bias.dtype is dtype
    assert model(torch.randn(2, 100, dtype=dtype)).dtype is dtype


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_independent(duplicate):
    ours = layer()
    other = duplicate(ours)
    assert torch.equal(other.weight, ours.weight)
    other.codes.zero_()
    assert not torch.equal(other.weight, ours.weight)


@pytest.mark.parametrize("assign", [True, False])
def test_state_survives_a_round_trip_through_modules_of_another_layout(assign):
    ours, other = layer(), layer(quant_type="fp4", block_size=128, double_quant=False)
    state = nn.ModuleDict({"q": ours}).state_dict()
    nn.ModuleDict({"q": other}).load_state_dict(state, assign=assign)
    assert torch.equal(other.weight, ours.weight)
    assert other.bias is not None and torch.equal(state["q.bias"], other.bias)
    assert (other.codes.data_ptr() == ours.codes.data_ptr()) is assign


def test_state_that_does_not_fit_is_refused():
    ours = layer()
    state = ours.state_dict()
    with pytest.raises(RuntimeError, match=r"must be \[37, 101\]"):
        layer(101).load_state_dict({**layer(101).state_dict(), **{k: v for k, v in state.items() if "weight" in k}})
    with pytest.raises(RuntimeError, match=r"Missing key.*weight"):
        ours.load_state_dict({"bias": state["bias"]})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*extra"):
        ours.load_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Missing key.*bias"):
        ours.load_state_dict({k: v for k, v in state.items() if k != "bias"})
    with pytest.raises(RuntimeError, match="absmax"):
        ours.load_state_dict({**state, "weight.absmax": state["weight.absmax"][1:]})


def test_a_16_bit_weight_is_no_4_bit_weight():
    with pytest.raises(RuntimeError, match=r"Missing key.*weight"):
        layer().load_state_dict(nn.Linear(100, 37).state_dict())


def test_from_quantized_shares_the_tensors():
    weight = quantize_4bit(torch.randn(37, 100, dtype=torch.bfloat16))
    ours = QuantizedLinear.from_quantized(weight)
    assert ours.codes is weight.codes and ours.compute_dtype is torch.bfloat16 and ours.bias is None
    assert (ours.in_features, ours.out_features) == (100, 37)
    assert "nf4" in repr(ours)


def test_a_linear_with_nan_is_refused():
    linear = nn.Linear(100, 37)
    linear.weight.data[3, 3] = float("nan")
    with pytest.raises(QuantizationError, match="finite"):
        QuantizedLinear.from_linear(linear)


@pytest.mark.gpu
def test_a_layer_moved_to_a_gpu_gives_the_same_weight():
    ours = layer(1000, 64)
    expected = ours.weight
    assert torch.equal(ours.cuda().weight.cpu(), expected)
    x = torch.randn(3, 1000, device="cuda", requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.cpu(), expected.sum(0).expand(3, -1), rtol=1e-4, atol=1e-4)
