"""Cross-entropy in place, both twins, against autograd in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from quatrain.ops.cross_entropy import IGNORED, cross_entropy_, reference
from quatrain.ops.cross_entropy import triton as kernel

from .precision import assert_rounded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

twins = pytest.mark.parametrize("twin", [reference, kernel], ids=["reference", "triton"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
options = pytest.mark.parametrize(
    "extra", [{}, {"scale": 0.25}, {"softcap": 3.0}, {"softcap": 2.0, "scale": 3.0}], ids=str
)
# One token, an odd vocabulary, rows that fit in what is kept to the last element, rows of several tiles and a rest.
shapes = pytest.mark.parametrize("shape", [(1, 1), (7, 101), (2, 32768), (2, 40001), (2, 70000), (0, 8)], ids=str)


@pytest.fixture(autouse=True)
def overflow_is_silent_as_on_hardware():
    """The interpreter computes with numpy, which warns where an exponential becomes infinite."""
    with np.errstate(over="ignore"):
        yield


def logits_and_targets(shape: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in a wider buffer; a third of them without a target, if there are enough."""
    logits = (torch.randn(shape[0], shape[1] + 8, device=DEVICE) * 4).to(dtype)[:, : shape[1]]
    targets = torch.randint(0, shape[1], (shape[0],), device=DEVICE)
    targets[1::3] = IGNORED
    return logits, targets


def exact(logits, targets, scale=1.0, softcap=None):
    """Loss by row, its gradient, and the size of what cancels in it: softmax − one-hot and 1 − tanh² may be about 0."""
    logits = logits.double().requires_grad_()
    z = logits * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    loss = F.cross_entropy(z, targets, reduction="none", ignore_index=IGNORED)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    one_hot = targets.unsqueeze(1) == torch.arange(logits.shape[1], device=DEVICE)
    return loss.detach(), gradient, (z.detach().softmax(1) + one_hot) * scale


@twins
@dtypes
@options
@shapes
def test_loss_and_gradient(twin: Any, dtype, extra, shape):
    logits, targets = logits_and_targets(shape, dtype)
    loss64, gradient64, size = exact(logits, targets, **extra)
    before, loss = logits.clone(), torch.full((shape[0],), float("nan"), device=DEVICE)

    twin.cross_entropy_(logits, targets, loss, want_gradient=False, **extra)
    assert torch.equal(logits, before)
    assert_rounded(loss, loss64)

    loss.fill_(float("nan"))
    twin.cross_entropy_(logits, targets, loss, **extra)
    assert_rounded(loss, loss64)
    assert_rounded(logits, gradient64, size)
    assert not logits[targets == IGNORED].any() and not loss[targets == IGNORED].any()


@twins
def test_a_row_without_a_target_gives_nothing_whatever_it_holds(twin: Any):
    logits = torch.full((2, 50), float("nan"), device=DEVICE)
    loss = torch.full((2,), float("nan"), device=DEVICE)
    twin.cross_entropy_(logits, torch.full((2,), IGNORED, device=DEVICE), loss)
    assert not logits.any() and not loss.any()


@twins
def test_logits_far_apart_and_impossible_tokens(twin: Any):
    logits = torch.randn(3, 200, device=DEVICE)
    logits[0, 5], logits[1, 5], logits[2, 10:] = 3e4, -3e4, float("-inf")
    targets = torch.tensor([7, 5, 3], device=DEVICE)
    loss64, gradient64, size = exact(logits, targets)
    loss = torch.empty(3, device=DEVICE)
    twin.cross_entropy_(logits, targets, loss)
    assert_rounded(loss, loss64)
    assert_rounded(logits, gradient64, size)


def test_misuse_is_refused():
    targets, loss = torch.zeros(4, dtype=torch.int64), torch.empty(4)
    with pytest.raises(ValueError, match="logits_CV's last dimension must be contiguous"):
        cross_entropy_(torch.randn(9, 4).T, targets, loss)
    with pytest.raises(ValueError, match=r"scale must be above 0, got -1\.0"):
        cross_entropy_(torch.randn(4, 9), targets, loss, scale=-1.0)
    with pytest.raises(ValueError, match=r"softcap must be above 0, got 0\.0"):
        cross_entropy_(torch.randn(4, 9), targets, loss, softcap=0.0)


@pytest.mark.gpu
def test_tensors_on_a_gpu_take_the_kernel(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the reference ran on a GPU")

    monkeypatch.setattr(reference, "cross_entropy_", refuse)
    logits, targets = logits_and_targets((4, 50), torch.bfloat16)
    cross_entropy_(logits, targets, torch.empty(4, device="cuda"))


@pytest.mark.gpu
def test_a_target_outside_the_vocabulary_shows_as_nan():
    logits, loss = torch.randn(3, 50, device="cuda"), torch.empty(3, device="cuda")
    cross_entropy_(logits, torch.tensor([50, -1, 49], device="cuda"), loss)
    assert loss.isnan().tolist() == [True, True, False]


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    logits = torch.randn(2**16 + 5, 2**15, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(0, 2**15, (len(logits),), device="cuda")
    tail, loss, tail_loss = logits[-5:].clone(), torch.empty(len(logits), device="cuda"), torch.empty(5, device="cuda")
    cross_entropy_(logits, targets, loss)
    cross_entropy_(tail, targets[-5:], tail_loss)
    assert torch.equal(logits[-5:], tail) and torch.equal(loss[-5:], tail_loss)
