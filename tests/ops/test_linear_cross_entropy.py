"""Chunked head and loss against torch's own cross-entropy on whole logits, values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from quatrain.ops.cross_entropy import IGNORED
from quatrain.ops.linear_cross_entropy import cutting, linear_cross_entropy, linear_cross_entropy_with_gradient

OPTIONS = [
    {},
    {"bias_V": torch.randn(101)},
    {"logit_scale": 0.25},
    {"softcap": 3.0},
    {"softcap": 2.0, "logit_scale": 3.0, "bias_V": torch.randn(101)},
]


def whole(hidden, weight, targets, bias_V=None, logit_scale=1.0, softcap=None):
    logits = hidden.double() @ weight.double().T
    logits = (logits if bias_V is None else logits + bias_V.double()) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("tokens", [0, 1, 7, 64])
@pytest.mark.parametrize("extra", OPTIONS, ids=lambda extra: "+".join(extra) or "plain")
def test_equals_the_whole_computation(rows, tokens, extra, monkeypatch):
    monkeypatch.setattr(cutting, "_CPU_CHUNK", rows * 101)
    hidden = torch.randn(tokens, 32, requires_grad=True)
    weight, targets = torch.randn(101, 32), torch.randint(0, 101, (tokens,))
    expected = whole(hidden, weight, targets, **extra)
    loss = linear_cross_entropy(hidden, weight, targets, **extra)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    (got,), (want,) = (torch.autograd.grad(2.5 * value, hidden) for value in (loss, expected))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets, **extra), loss)


@pytest.mark.parametrize("tokens", [0, 1, 7, 64])
@pytest.mark.parametrize("extra", OPTIONS, ids=lambda extra: "+".join(extra) or "plain")
def test_without_autograd_and_with_tokens_that_nobody_supervises(tokens, extra, monkeypatch):
    monkeypatch.setattr(cutting, "_CPU_CHUNK", 3 * 101)
    hidden, weight = torch.randn(tokens, 32), torch.randn(101, 32)
    targets = torch.randint(0, 101, (tokens,))
    targets[::2] = IGNORED
    expected = whole(leaf := hidden.clone().requires_grad_(), weight, targets, **extra)
    (want,) = torch.autograd.grad(0.01 * expected, leaf)
    out = torch.full((tokens, 40), float("nan"))[:, :32]
    loss, got = linear_cross_entropy_with_gradient(hidden, weight, targets, grad_out=out, gradient_scale=0.01, **extra)
    assert got is out and loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert not got[::2].any()


def test_bfloat16_is_as_close_to_the_truth_as_torchs_own_bfloat16_path():
    hidden, weight = torch.randn(200, 64).bfloat16().requires_grad_(), (torch.randn(1000, 64) * 0.2).bfloat16()
    targets = torch.randint(0, 1000, (200,))
    (truth,) = torch.autograd.grad(whole(hidden, weight, targets), hidden)
    plain = F.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")
    (theirs,) = torch.autograd.grad(plain, hidden)
    (ours,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), hidden)
    error = (ours.double() - truth.double()).norm() / truth.double().norm()
    assert error <= 1.05 * (theirs.double() - truth.double()).norm() / truth.double().norm()
    assert error < 1e-2


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="grad_out's last dimension must be contiguous"):
        linear_cross_entropy_with_gradient(
            torch.randn(4, 8), torch.randn(9, 8), torch.zeros(4, dtype=torch.int64), grad_out=torch.randn(8, 4).T
        )


@pytest.mark.gpu
@pytest.mark.parametrize("vocabulary", [32000, 50257])
def test_on_a_gpu_it_is_right_in_bfloat16_and_can_be_captured(vocabulary):
    hidden = torch.randn(3000, 2048, device="cuda").bfloat16()
    weight = (torch.randn(vocabulary, 2048, device="cuda") * 0.05).bfloat16()
    targets = torch.randint(0, vocabulary, (3000,), device="cuda")
    targets[::5] = IGNORED
    (truth,) = torch.autograd.grad(whole(leaf := hidden.double().requires_grad_(), weight, targets), leaf)
    out = torch.full_like(hidden, float("nan"))
    linear_cross_entropy_with_gradient(hidden, weight, targets, grad_out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, _ = linear_cross_entropy_with_gradient(hidden, weight, targets, grad_out=out.fill_(float("nan")))
    graph.replay()
    assert (out.double() - truth).norm() / truth.norm() < 1e-2
    torch.testing.assert_close(loss.double(), whole(hidden, weight, targets), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("most", [None, 1, 300])
@pytest.mark.parametrize("tokens", [0, 1, 1024, 1025, 8000])
def test_chunks_on_a_gpu_are_nearly_equal_and_no_larger_than_asked(tokens, most):
    rows = cutting.rows_of_a_chunk(tokens, 4096, 128256, on_gpu=True, most=most)
    count = -(-tokens // rows) if rows else 0
    assert rows <= (most or 1024) and count == -(-tokens // (most or 1024))
    assert 0 <= count * rows - tokens < max(1, count), "the last chunk repeats at most a row for each"
