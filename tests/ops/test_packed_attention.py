"""Packed attention against one masked float64 attention over the whole row, values and gradients."""

import pytest
import torch

from quatrain.ops.packed_attention import blockwise, packed_attention, reference


def whole_row(q, k, v, lengths, scale, window, softcap):
    """Plain attention under a block-diagonal causal mask."""
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(q.device)
    place = torch.arange(sum(lengths), device=q.device)
    visible = (sample[:, None] == sample[None]) & (place[:, None] >= place[None])
    if window is not None:
        visible &= place[:, None] - place[None] < window
    scores = scale * q @ k.transpose(1, 2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v


LENGTHS = [(1,), (5, 1, 9), (33, 7), (2,) * 6]


def check(lengths, heads, window, softcap, dtype, device, tolerance):
    tokens = sum(lengths)
    q, k, v = (torch.randn(h, tokens, 16, dtype=dtype, device=device, requires_grad=True) for h in heads)
    ours = packed_attention(q, k, v, lengths, scale=0.3, window=window, softcap=softcap)
    truth = whole_row(q.double(), k.double(), v.double(), lengths, 0.3, window, softcap)
    upstream = torch.randn_like(ours)
    got = torch.autograd.grad(ours, (q, k, v), upstream)
    want = torch.autograd.grad(truth, (q, k, v), upstream.double())
    for o, t in zip((ours, *got), (truth, *want), strict=True):
        # A sample of one token has gradients of exactly zero; the upstream gradient sets the scale there.
        assert (o.double() - t.double()).norm() <= tolerance * (t.double().norm() + 0.1 * upstream.double().norm())


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("heads", [(4, 4, 4), (6, 2, 2)])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (4, None), (None, 5.0), (3, 5.0)])
def test_samples_are_attended_alone(lengths, heads, window, softcap):
    check(lengths, heads, window, softcap, torch.float32, "cpu", 1e-5)


@pytest.mark.parametrize("lengths", [*LENGTHS, (300, 1, 257), (128, 64), (1024, 1025)])
@pytest.mark.parametrize("heads", [(4, 4, 4), (6, 2, 2)])
@pytest.mark.parametrize("window", [None, 4])
def test_bfloat16(lengths, heads, window):
    check(lengths, heads, window, None, torch.bfloat16, "cpu", 1e-2)


@pytest.mark.parametrize("tokens", [63, 64, 200, 513])
def test_blocks_of_queries_are_no_worse_than_torchs_own_kernel(tokens):
    """Against float64, values and gradients together."""
    q, k, v = (torch.randn(h, tokens, 32).bfloat16().requires_grad_() for h in (6, 2, 2))
    upstream = torch.randn(6, tokens, 32).bfloat16()
    truth = whole_row(q.double(), k.double(), v.double(), (tokens,), 0.2, None, None)
    want = torch.autograd.grad(truth, (q, k, v), upstream.double())

    def error(attend) -> float:
        got = torch.autograd.grad(attend(q, k, v, 0.2), (q, k, v), upstream)
        return sum(
            ((g.double() - w.double()).norm() / w.double().norm()).item() for g, w in zip(got, want, strict=True)
        )

    assert blockwise.can_run(q, window=None, softcap=None, dropout=0.0)
    assert error(blockwise.attend) <= 1.5 * error(reference.attend)


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [*LENGTHS, (700, 1, 324, 1023)])
@pytest.mark.parametrize("window", [None, 4])
def test_the_variable_length_kernel(lengths, window):
    check(lengths, (6, 2, 2), window, None, torch.bfloat16, "cuda", 1e-2)


def test_lengths_must_cover_the_row():
    q = torch.randn(2, 5, 16)
    with pytest.raises(ValueError, match="add up"):
        packed_attention(q, q, q, (2, 2), scale=1.0)
