"""The gated activation, both twins, against autograd in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from quatrain.errors import ModelError
from quatrain.ops.gated_activation import (
    ACTIVATIONS,
    EightBits,
    gated_activation,
    gated_activation_backward_,
    reference,
)
from quatrain.ops.gated_activation import triton as kernel

from .precision import assert_rounded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

twins = pytest.mark.parametrize("twin", [reference, kernel], ids=["reference", "triton"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
activations = pytest.mark.parametrize("activation", ACTIVATIONS)
shapes = pytest.mark.parametrize("shape", [(1, 40), (3, 45), (70, 96), (2, 2100), (0, 8)], ids=str)


@pytest.fixture(autouse=True)
def overflow_is_silent_as_on_hardware():
    """The interpreter computes with numpy, which warns where an exponential becomes infinite."""
    with np.errstate(over="ignore"):
        yield


def rows(shape: tuple[int, int], dtype: torch.dtype, spread: float = 1.0) -> torch.Tensor:
    """Random rows in a wider buffer, so that they lie apart."""
    return (torch.randn(shape[0], shape[1] + 8, device=DEVICE) * spread).to(dtype)[:, : shape[1]]


def exact(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=1)
    if activation == "silu":
        return F.silu(gate) * up
    return F.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up


@twins
@dtypes
@activations
@shapes
def test_forward(twin: Any, dtype, activation, shape):
    gate_up, out = rows((shape[0], 2 * shape[1]), dtype, spread=3.0), rows(shape, dtype).fill_(float("nan"))
    assert twin.gated_activation(gate_up, activation=activation, out=out) is out
    assert_rounded(out, exact(gate_up.double(), activation))
    assert torch.equal(twin.gated_activation(gate_up, activation=activation), out)


@twins
@dtypes
@activations
@shapes
def test_backward_leaves_gradients_and_the_activation(twin: Any, dtype, activation, shape):
    gate_up, dact = rows((shape[0], 2 * shape[1]), dtype, spread=3.0), rows(shape, dtype)
    check_backward(twin, activation, gate_up, dact, None)


@twins
@dtypes
@activations
@pytest.mark.parametrize("rank", [1, 16, 40, 256])
@pytest.mark.parametrize("enough", [1, kernel.ENOUGH_PROGRAMS], ids=["many tiles", "one tile"])
def test_backward_adds_a_product_of_low_rank(twin: Any, dtype, activation, rank, enough, monkeypatch):
    monkeypatch.setattr(kernel, "ENOUGH_PROGRAMS", enough)
    if twin is kernel and dtype is torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter multiplies matrices of bfloat16 as if their bits were integers")
    gate_up, dact = rows((70, 2 * 96), dtype, spread=3.0), rows((70, 96), dtype)
    check_backward(twin, activation, gate_up, dact, (rows((70, rank), dtype), rows((rank, 96), dtype)))


@twins
@dtypes
@shapes
def test_gate_and_up_in_8_bits_are_off_by_half_a_step(twin: Any, dtype, shape):
    gate_up, out = (
        rows((shape[0], 2 * shape[1]), dtype, spread=3.0),
        EightBits.room(shape[0], shape[1], torch.device(DEVICE)),
    )
    gate_up[:1, :] = 0.0
    act = twin.gated_activation(gate_up, activation="silu", eight_bits=out)
    assert torch.equal(act, twin.gated_activation(gate_up, activation="silu"))
    found = expanded(out)
    halves, blocks = gate_up.double().unflatten(1, (2, -1)), range(0, shape[1], 128)
    steps = [halves[:, :, first : first + 128].abs().amax(dim=2) / 127 for first in blocks]
    assert torch.allclose(out.scales_TB2.double().unflatten(1, (2, -1)), torch.stack(steps, dim=2), rtol=1e-6)
    for first, step in zip(blocks, steps, strict=True):
        part = slice(first, first + 128)
        assert ((found - halves)[:, :, part].abs() <= 0.50001 * step[:, :, None]).all()


@twins
@dtypes
@shapes
@pytest.mark.parametrize("rank", [0, 16])
def test_backward_from_8_bits(twin: Any, dtype, shape, rank):
    if twin is kernel and dtype is torch.bfloat16 and DEVICE == "cpu" and rank:
        pytest.skip("Triton's interpreter multiplies matrices of bfloat16 as if their bits were integers")
    gate_up, dact = rows((shape[0], 2 * shape[1]), dtype, spread=3.0), rows(shape, dtype)
    kept = EightBits.room(shape[0], shape[1], torch.device(DEVICE))
    twin.gated_activation(gate_up, activation="silu", eight_bits=kept)
    gate_up.fill_(float("nan"))
    low_rank = (rows((shape[0], rank), dtype), rows((rank, shape[1]), dtype)) if rank else None
    check_backward(twin, "silu", gate_up, dact, low_rank, kept)


def expanded(kept: EightBits) -> torch.Tensor:
    """float64 [T, 2, F]."""
    codes = kept.codes_TF2.double().unflatten(1, (2, -1))
    scales = kept.scales_TB2.double().unflatten(1, (2, -1)).repeat_interleave(128, dim=2)
    return codes * scales[:, :, : codes.shape[2]]


def check_backward(twin: Any, activation: str, gate_up, dact, low_rank, eight_bits=None) -> None:
    source = gate_up.double() if eight_bits is None else expanded(eight_bits).flatten(1)
    gate_up64 = source.requires_grad_()
    act64 = exact(gate_up64, activation)
    incoming = dact.double() if low_rank is None else dact.double() + low_rank[0].double() @ low_rank[1].double()
    (expected,) = torch.autograd.grad(act64, gate_up64, incoming)
    twin.gated_activation_backward_(dact, gate_up, activation=activation, eight_bits=eight_bits, low_rank=low_rank)
    assert_rounded(gate_up, expected)
    assert_rounded(dact, act64.detach())


@twins
@activations
def test_gates_far_out_give_neither_nan_nor_infinity(twin: Any, activation):
    gate = torch.tensor([[-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4]], device=DEVICE)
    gate_up, dact = torch.cat((gate, torch.ones_like(gate)), dim=1), torch.ones_like(gate)
    check_backward(twin, activation, gate_up, dact, None)


def test_misuse_is_refused():
    gate_up, dact = torch.randn(4, 16), torch.randn(4, 8)
    with pytest.raises(ModelError, match="silu, gelu_tanh, gelu, got 'relu'"):
        gated_activation(gate_up, activation="relu")
    with pytest.raises(ValueError, match="twice as wide as out"):
        gated_activation(gate_up, activation="silu", out=torch.empty(4, 16))
    with pytest.raises(ValueError, match="twice as wide as dact_TF"):
        gated_activation_backward_(gate_up, gate_up, activation="silu")
    with pytest.raises(ValueError, match="must be even"):
        gated_activation(torch.randn(4, 15), activation="silu")
    with pytest.raises(ValueError, match="last dimension must be contiguous"):
        gated_activation(torch.randn(16, 4).T, activation="silu")
    with pytest.raises(ValueError, match=r"codes \[4, 16\] and scales \[4, 2\], found \[4, 32\]"):
        gated_activation(gate_up, activation="silu", eight_bits=EightBits.room(4, 16, torch.device("cpu")))
    for rank in (0, 257):
        with pytest.raises(ValueError, match=f"from 1 to 256, got {rank}"):
            low_rank = torch.randn(4, rank), torch.randn(rank, 8)
            gated_activation_backward_(dact, gate_up, activation="silu", low_rank=low_rank)


@pytest.mark.gpu
def test_tensors_on_a_gpu_take_the_kernels(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference ran on a GPU")

    monkeypatch.setattr(reference, "gated_activation", refuse)
    monkeypatch.setattr(reference, "gated_activation_backward_", refuse)
    gate_up = torch.randn(4, 64, device="cuda")
    gated_activation_backward_(gated_activation(gate_up, activation="silu"), gate_up, activation="silu")


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    gate_up = torch.randn(2**16 + 1, 2**16, device="cuda", dtype=torch.bfloat16)
    dact, tail = gate_up[:, :32768] * 0.5, gate_up[-3:].clone()
    dact_tail = dact[-3:].clone()
    for gradient, gates in ((dact, gate_up), (dact_tail, tail)):
        gated_activation_backward_(gradient, gates, activation="silu")
    assert torch.equal(gate_up[-3:], tail) and torch.equal(dact[-3:], dact_tail)
