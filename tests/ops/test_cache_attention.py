"""Attention of one new token over a cache, both twins, against attention over the whole text in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from quatrain.ops.cache_attention import HeadNorms, cache_attention, reference
from quatrain.ops.cache_attention import triton as kernel
from quatrain.ops.rotary.reference import rotary_

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CAPACITY = 200
# What a score or an output may be off by: the products' inputs are rounded to the dtype.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

twins = pytest.mark.parametrize("twin", [reference, kernel], ids=["reference", "triton"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def zeros_may_be_divided():
    with np.errstate(divide="ignore", invalid="ignore"):  # empty runs, in the interpreter
        yield


def skip_what_the_interpreter_cannot(twin: Any, dtype: torch.dtype) -> None:
    if twin is kernel and DEVICE == "cpu" and dtype is torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 as integers")


class Case:
    """Sequences of random heads: the text so far in a cache whose free room is NaN, and one new token each."""

    def __init__(self, lengths: list[int], heads: int, groups: int, size: int, half: int, dtype: torch.dtype):
        self.heads, self.groups, self.size, self.dtype = heads, groups, size, dtype
        self.lengths = torch.tensor(lengths, device=DEVICE)
        angles = torch.rand(CAPACITY, half, device=DEVICE) * 6.28
        self.cos, self.sin = angles.cos(), angles.sin()
        self.qkv = torch.randn(len(lengths), (heads + 2 * groups) * size + 8, device=DEVICE).to(dtype)[:, :-8]
        shape = (len(lengths), CAPACITY, groups, size)
        self.keys, self.values = (torch.full(shape, float("nan"), device=DEVICE, dtype=dtype) for _ in range(2))
        for row, length in enumerate(lengths):
            self.keys[row, :length] = torch.randn(length, groups, size, device=DEVICE)
            self.values[row, :length] = torch.randn(length, groups, size, device=DEVICE)

    def new_heads(self, norms: HeadNorms | None) -> tuple[torch.Tensor, ...]:
        """The new tokens' q, k [B, heads, D], rotated, and v, in float64 but for what the format rounds."""
        x = self.qkv.double().view(len(self.lengths), -1, self.size)
        q, k, v = x.split([self.heads, self.groups, self.groups], dim=1)
        if norms is not None:
            q = F.rms_norm(q, (self.size,), norms.q_D.double() + norms.offset, norms.eps)
            k = F.rms_norm(k, (self.size,), norms.k_D.double() + norms.offset, norms.eps)
        turned = torch.cat((q, k), dim=1).float()
        rotary_(turned, self.lengths, self.cos, self.sin)
        q, k = turned.to(self.dtype).double().split([self.heads, self.groups], dim=1)
        return q, k, v

    def expected(self, *, scale: float, window: int | None, softcap: float | None, norms: HeadNorms | None):
        q, k, v = self.new_heads(norms)
        rows = []
        for row, length in enumerate(self.lengths.tolist()):
            keys = torch.cat((self.keys[row, :length].double(), k[row, None]))
            values = torch.cat((self.values[row, :length].double(), v[row, None]))
            if window is not None:
                keys, values = keys[-window:], values[-window:]
            share = self.heads // self.groups
            keys, values = (x.repeat_interleave(share, dim=1).transpose(0, 1) for x in (keys, values))
            scores = (keys @ q[row, :, :, None]).squeeze(-1) * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            rows.append((scores.softmax(-1)[:, None] @ values).reshape(-1))
        return torch.stack(rows)

    def arguments(self) -> tuple[torch.Tensor, ...]:
        return self.qkv, self.keys, self.values, self.lengths, self.cos, self.sin


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "grouped": (([0, 1, 63, 64, 199, 130], 4, 2, 16, 8), {}),
    "one sequence": (([150], 6, 2, 32, 16), {}),
    "odd sizes": (([7, 90], 3, 3, 24, 9), {"scale": 0.3}),
    "window": (([0, 3, 70, 199], 4, 1, 16, 8), {"window": 65}),
    "window of one": (([0, 77], 2, 2, 16, 8), {"window": 1}),
    "soft cap": (([5, 130], 4, 2, 16, 8), {"softcap": 2.0, "scale": 2.0}),
}


@twins
@dtypes
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runs", [1, 3])
def test_attends_to_the_text_so_far_and_stores_the_new_token(twin: Any, dtype, case, runs):
    skip_what_the_interpreter_cannot(twin, dtype)
    sizes, options = CASES[case]
    made = Case(*sizes, dtype=dtype)
    options = {"scale": 0.25, "window": None, "softcap": None, "norms": None} | options
    expected, (_, k, v) = made.expected(**options), made.new_heads(None)
    before = made.keys.clone(), made.values.clone()
    out = torch.full((len(made.lengths), made.heads * made.size + 5), float("nan"), device=DEVICE, dtype=dtype)
    more = {"runs": runs} if twin is kernel else {}
    twin.cache_attention(*made.arguments(), out=out[:, :-5], **options, **more)

    torch.testing.assert_close(out[:, :-5].double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert out[:, -5:].isnan().all(), "wrote beyond its columns"
    rows = torch.arange(len(made.lengths), device=DEVICE)
    torch.testing.assert_close(made.keys[rows, made.lengths].double(), k, atol=1e-6, rtol=TOLERANCE[dtype])
    assert torch.equal(made.values[rows, made.lengths].double(), v)
    for now, then in zip((made.keys, made.values), before, strict=True):
        now[rows, made.lengths] = then[rows, made.lengths]
        assert torch.equal(now.nan_to_num(9), then.nan_to_num(9)), "wrote beyond the new token"


@twins
@dtypes
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_heads_are_normalized_before_they_turn(twin: Any, dtype, offset):
    skip_what_the_interpreter_cannot(twin, dtype)
    made = Case([0, 40, 150], 4, 2, 16, 8, dtype)
    q, k = (torch.randn(16, device=DEVICE).to(dtype) for _ in range(2))
    options: dict[str, Any] = {"scale": 0.25, "window": None, "softcap": None, "norms": HeadNorms(q, k, 1e-5, offset)}
    expected = made.expected(**options)
    out = torch.full_like(expected, float("nan"), dtype=dtype)
    twin.cache_attention(*made.arguments(), out=out, **options)
    torch.testing.assert_close(out.double(), expected, atol=2 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_misuse_is_refused():
    made = Case([3], 4, 2, 16, 8, torch.float32)
    qkv, keys, values, lengths, cos, sin = (x.cpu() for x in made.arguments())
    with pytest.raises(ValueError, match="another model"):
        cache_attention(qkv[:, :-16], keys, values, lengths, cos, sin, scale=1.0)
    with pytest.raises(ValueError, match="values_BCGD must be contiguous and of qkv's"):
        cache_attention(qkv, keys, values.half(), lengths, cos, sin, scale=1.0)
    with pytest.raises(ValueError, match="head size 16"):
        cache_attention(qkv, keys, values, lengths, cos.repeat(1, 2), sin.repeat(1, 2), scale=1.0)
    with pytest.raises(ValueError, match="window must be at least 1"):
        cache_attention(qkv, keys, values, lengths, cos, sin, scale=1.0, window=0)


@pytest.mark.gpu
def test_tensors_on_a_gpu_take_the_kernel(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference ran on a GPU")

    monkeypatch.setattr(reference, "cache_attention", refuse)
    cache_attention(*Case([3, 9], 4, 2, 64, 32, torch.bfloat16).arguments(), scale=1.0)
