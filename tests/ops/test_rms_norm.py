"""Root-mean-square normalization, both twins, against autograd in float64."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from quatrain.ops.rms_norm import reference, rms_norm, rms_norm_backward
from quatrain.ops.rms_norm import triton as kernel

from .precision import assert_rounded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-5

twins = pytest.mark.parametrize("twin", [reference, kernel], ids=["reference", "triton"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# A few columns, an odd width, widths of real models that are no power of two, rows that share a program, and heads.
shapes = pytest.mark.parametrize(
    "shape", [(30, 3), (7, 45), (2, 576), (1, 3584), (37, 128), (5, 3, 64), (0, 16)], ids=str
)


def rows(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random rows in a wider buffer, so that they lie apart."""
    return torch.randn(*shape[:-1], shape[-1] + 8, device=DEVICE).to(dtype)[..., : shape[-1]]


def holes(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return rows(shape, dtype).fill_(float("nan"))


def exact(x, weight, offset):
    return F.rms_norm(x, x.shape[-1:], weight.double() + offset, EPS)


@twins
@dtypes
@shapes
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_forward_and_backward(twin: Any, dtype, shape, offset):
    x, weight, dy, out = rows(shape, dtype), rows((1, shape[-1]), dtype)[0], rows(shape, dtype), holes(shape, dtype)
    y, rstd = twin.rms_norm(x, weight, eps=EPS, offset=offset, out=out)
    x64 = x.double().requires_grad_()
    y64 = exact(x64, weight, offset)
    assert y is out and rstd.dtype == torch.float32 and rstd.shape == shape[:-1]
    assert_rounded(y, y64.detach())
    assert_rounded(rstd, (x.double().square().mean(-1) + EPS).rsqrt())

    (dx64,) = torch.autograd.grad(y64, x64, dy.double())
    assert_rounded(twin.rms_norm_backward(dy, x, weight, rstd, offset=offset), dx64)


@twins
@dtypes
@shapes
def test_residual_is_added_before_and_its_gradient_after(twin: Any, dtype, shape):
    x, residual, weight = rows(shape, dtype), rows(shape, dtype), rows((1, shape[-1]), dtype)[0]
    total = holes(shape, dtype)
    y, rstd = twin.rms_norm(x, weight, eps=EPS, residual_TH=residual, sum_out=total)
    assert_rounded(total, x.double() + residual.double())
    total64 = total.double().requires_grad_()
    y64 = exact(total64, weight, 0.0)
    assert_rounded(y, y64.detach())

    dy, add = rows(shape, dtype), rows(shape, dtype)
    (dx64,) = torch.autograd.grad(y64, total64, dy.double())
    assert_rounded(twin.rms_norm_backward(dy, total, weight, rstd, add_TH=add), dx64 + add.double())


@twins
@dtypes
def test_results_may_lie_where_operands_lay(twin: Any, dtype):
    # All contiguous: the order of a sum, and so its last bit, may depend on how rows are aligned.
    shape = (9, 72)
    x, residual, dy, add, total = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(5))
    weight = torch.randn(72, device=DEVICE).to(dtype)
    y, rstd = twin.rms_norm(x, weight, eps=EPS, residual_TH=residual, sum_out=total)
    in_place = x.clone()
    twin.rms_norm(in_place, weight, eps=EPS, residual_TH=residual, sum_out=residual, out=in_place)
    assert torch.equal(residual, total) and torch.equal(in_place, y)

    expected = twin.rms_norm_backward(dy, total, weight, rstd, add_TH=add)
    for name in ("dy", "add"):
        operands = {"dy": dy.clone(), "add": add.clone()}
        out = operands[name]
        assert twin.rms_norm_backward(operands["dy"], total, weight, rstd, add_TH=operands["add"], out=out) is out
        assert torch.equal(out, expected)


@twins
def test_heads_of_a_joint_product_are_normalized_where_they_lie(twin: Any):
    qkv = torch.randn(6, 5 * 16, device=DEVICE)
    before, weight = qkv.clone(), torch.randn(16, device=DEVICE)
    heads = qkv.view(6, 5, 16)[:, 1:4]
    twin.rms_norm(heads, weight, eps=EPS, out=heads)
    assert_rounded(heads, exact(before.view(6, 5, 16)[:, 1:4].double(), weight, 0.0))
    assert torch.equal(qkv[:, :16], before[:, :16]) and torch.equal(qkv[:, 64:], before[:, 64:])


def test_misuse_is_refused():
    x, weight = torch.randn(4, 6), torch.randn(6)
    with pytest.raises(ValueError, match="sum_out"):
        rms_norm(x, weight, eps=EPS, residual_TH=x)
    with pytest.raises(ValueError, match="x_TH's last dimension must be contiguous"):
        rms_norm(torch.randn(6, 4).T, weight, eps=EPS)
    with pytest.raises(ValueError, match=r"\[T, H\] or \[T, A, H\]"):
        rms_norm(torch.randn(2, 2, 2, 6), weight, eps=EPS)
    with pytest.raises(ValueError, match="out's last dimension"):
        rms_norm_backward(x, x, weight, torch.ones(4), out=torch.randn(6, 4).T)


@pytest.mark.gpu
def test_tensors_on_a_gpu_take_the_kernels(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference ran on a GPU")

    monkeypatch.setattr(reference, "rms_norm", refuse)
    monkeypatch.setattr(reference, "rms_norm_backward", refuse)
    x, weight = torch.randn(4, 64, device="cuda"), torch.randn(64, device="cuda")
    y, rstd = rms_norm(x, weight, eps=EPS)
    rms_norm_backward(y, x, weight, rstd)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    x = torch.randn(2**19 + 3, 4096, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(4096, device="cuda", dtype=torch.bfloat16)
    y, rstd = rms_norm(x, weight, eps=EPS)
    dx = rms_norm_backward(x, x, weight, rstd)
    tail, tail_rstd = rms_norm(x[-3:], weight, eps=EPS)
    assert torch.equal(y[-3:], tail)
    assert torch.equal(dx[-3:], rms_norm_backward(x[-3:], x[-3:], weight, tail_rstd))
