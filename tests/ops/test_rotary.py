"""Rotary position embedding, both twins, against Hugging Face's formula in float64."""

from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from quatrain.ops.rotary import reference, rotary_
from quatrain.ops.rotary import triton as kernel

from .precision import assert_rounded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
POSITIONS = 50

twins = pytest.mark.parametrize("twin", [reference, kernel], ids=["reference", "triton"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
# Tokens, heads, head size, half of the rotated width: one of each, odd counts, Phi-3's 96, Phi-4-mini's three quarters.
shapes = pytest.mark.parametrize("shape", [(1, 1, 2, 1), (5, 3, 16, 8), (9, 10, 96, 48), (3, 12, 64, 24), (0, 2, 8, 4)])


def tables(half: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.rand(POSITIONS, half, device=DEVICE) * 6.28
    return angles.cos(), angles.sin()


def exact(x, positions, cos, sin):
    """Hugging Face's function on the rotated columns; the others as they are."""
    half = cos.shape[1]
    cos_1TD, sin_1TD = (torch.cat((table, table), dim=1)[positions].double()[None] for table in (cos, sin))
    heads_first = x.double()[..., : 2 * half].transpose(0, 1)[None]
    turned, _ = apply_rotary_pos_emb(heads_first, heads_first, cos_1TD, sin_1TD)
    return torch.cat((turned[0].transpose(0, 1), x.double()[..., 2 * half :]), dim=-1)


@twins
@dtypes
@shapes
def test_turns_as_hugging_face_does_and_back(twin: Any, dtype, shape):
    tokens, heads, size, half = shape
    whole = torch.randn(tokens, heads + 2, size, device=DEVICE).to(dtype)
    x, before = whole[:, 1:-1], whole.clone()
    positions = torch.randint(0, POSITIONS, (tokens,), device=DEVICE)
    cos, sin = tables(half)
    expected = exact(x, positions, cos, sin)
    twin.rotary_(x, positions, cos, sin)
    assert_rounded(x, expected)
    assert torch.equal(x[..., 2 * half :], before[:, 1:-1, 2 * half :]), "columns beyond the rotated width changed"
    assert torch.equal(whole[:, [0, -1]], before[:, [0, -1]]), "a neighbour of the view changed"

    expected = exact(x, positions, cos, -sin)
    twin.rotary_(x, positions, cos, sin, inverse=True)
    assert_rounded(x, expected)


@twins
def test_inverse_is_the_gradient_even_where_the_tables_carry_a_factor(twin: Any):
    x = torch.randn(7, 3, 16, device=DEVICE)
    positions = torch.arange(7, device=DEVICE)
    cos, sin = (1.3 * table for table in tables(8))
    x64, dy = x.double().requires_grad_(), torch.randn_like(x)
    (expected,) = torch.autograd.grad(exact(x64, positions, cos, sin), x64, dy.double())
    twin.rotary_(dy, positions, cos, sin, inverse=True)
    assert_rounded(dy, expected)


def test_misuse_is_refused():
    positions, (cos, sin) = torch.zeros(4, dtype=torch.int64), (table.cpu() for table in tables(8))
    with pytest.raises(ValueError, match="head size 12"):
        rotary_(torch.randn(4, 2, 12), positions, cos, sin)
    with pytest.raises(ValueError, match="last dimension must be contiguous"):
        rotary_(torch.randn(4, 16, 2).transpose(1, 2), positions, cos, sin)


@pytest.mark.gpu
def test_tensors_on_a_gpu_take_the_kernel(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference ran on a GPU")

    monkeypatch.setattr(reference, "rotary_", refuse)
    rotary_(torch.randn(4, 2, 16, device="cuda"), torch.zeros(4, dtype=torch.int64, device="cuda"), *tables(8))
