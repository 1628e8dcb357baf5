"""The thin half of an adapter's update for a few rows, both twins, against float64."""

from typing import Any

import pytest
import torch

from quatrain.ops.low_rank_sums import low_rank_sums, reference
from quatrain.ops.low_rank_sums import triton as kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("twin", [reference, kernel], ids=["reference", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
# Rows, inputs, ranks: less than a tile and a run, odd ones, several runs, more ranks than a program takes.
@pytest.mark.parametrize("shape", [(1, 24, 3), (5, 1000, 17), (17, 2100, 48)])
def test_sums_add_up_to_the_product(twin: Any, dtype, shape):
    if twin is kernel and DEVICE == "cpu" and dtype is torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 as integers")
    rows, inputs, rank = shape
    x = torch.randn(rows, inputs + 8, device=DEVICE).to(dtype)[:, :-8]
    a = torch.randn(rank, inputs, device=DEVICE).to(dtype)
    sums = twin.low_rank_sums(x, a)
    assert sums.dtype is torch.float32 and sums.shape[1:] == (rows, rank)
    torch.testing.assert_close(sums.double().sum(0), x.double() @ a.double().T, atol=1e-5 * inputs**0.5, rtol=1e-5)


@pytest.mark.gpu
def test_tensors_on_a_gpu_take_the_kernel(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference ran on a GPU")

    monkeypatch.setattr(reference, "low_rank_sums", refuse)
    low_rank_sums(torch.randn(2, 64, device="cuda"), torch.randn(8, 64, device="cuda"))
