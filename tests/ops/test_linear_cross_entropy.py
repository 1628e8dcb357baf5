"""Chunked head and loss against torch's own cross-entropy on whole logits, values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from quatrain.ops.linear_cross_entropy import chunked, linear_cross_entropy


def whole(hidden, weight, targets, bias=None, logit_scale=1.0, softcap=None):
    logits = hidden.double() @ weight.double().T
    logits = (logits if bias is None else logits + bias.double()) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("tokens", [0, 1, 7, 64])
@pytest.mark.parametrize(
    "extra",
    [{}, {"bias_V": torch.randn(101)}, {"logit_scale": 0.25}, {"softcap": 3.0}, {"softcap": 2.0, "logit_scale": 3.0}],
)
def test_equals_the_whole_computation(rows, tokens, extra, monkeypatch):
    monkeypatch.setattr(chunked, "_CPU_CHUNK", rows * 101)
    hidden = torch.randn(tokens, 32, requires_grad=True)
    weight, targets = torch.randn(101, 32), torch.randint(0, 101, (tokens,))
    expected = whole(hidden, weight, targets, extra.get("bias_V"), extra.get("logit_scale", 1.0), extra.get("softcap"))
    loss = linear_cross_entropy(hidden, weight, targets, **extra)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    (got,), (want,) = (torch.autograd.grad(2.5 * value, hidden) for value in (loss, expected))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets, **extra), loss)


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
