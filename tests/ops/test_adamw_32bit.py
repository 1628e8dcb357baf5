"""32-bit AdamW against ``torch.optim.AdamW``."""

import pytest
import torch

from quatrain.errors import OptimizerError
from quatrain.ops.adamw_32bit import adamw_32bit, reference
from quatrain.ops.adamw_32bit.rows import rows_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(64, 100), (4096,), (17, 301), (3, 5), ()]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_same_as_torch(weight_decay, eps):
    """A large eps shows where it enters; a few units in the last place come from torch's way to average (lerp)."""
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(s, generator=generator) for s in SHAPES]
    theirs = [torch.nn.Parameter(p.clone()) for p in ours]
    rows = sum(map(rows_of, ours))
    moments = torch.zeros(rows, 256), torch.zeros(rows, 256)
    optimizer = torch.optim.AdamW(theirs, lr=1e-2, betas=(0.8, 0.95), eps=eps, weight_decay=weight_decay)
    for step in range(1, 51):
        grads = [0.1 * torch.randn(s, generator=generator) for s in SHAPES]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g
        optimizer.step()
        adamw_32bit(ours, grads, *moments, step=step, lr=1e-2, betas=(0.8, 0.95), eps=eps, weight_decay=weight_decay)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shapes", [SHAPES, [(1,)], [(255,), (256,), (257,), (2, 3, 7)]])
def test_kernel_equals_reference(shapes):
    pytest.importorskip("triton")
    from quatrain.ops.adamw_32bit import triton as kernel

    generator = torch.Generator().manual_seed(0)
    expected = [torch.randn(s, generator=generator) for s in shapes]
    actual = [p.clone().to(DEVICE) for p in expected]
    rows = sum(map(rows_of, expected))
    moments = [torch.zeros(rows, 256) for _ in range(2)]
    kernel_moments = [torch.zeros(rows, 256, device=DEVICE) for _ in range(2)]
    settings = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    for step in range(1, 4):
        grads = [0.1 * torch.randn(s, generator=generator) for s in shapes]
        reference.adamw_32bit(expected, grads, *moments, step=step, **settings)
        kernel.adamw_32bit(actual, [g.to(DEVICE) for g in grads], *kernel_moments, step=step, **settings)
    for one, other in zip([*expected, *moments], [*actual, *kernel_moments], strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-5, atol=1e-6)


def test_state_of_other_parameters_is_refused():
    with pytest.raises(OptimizerError, match="moment1 must be contiguous"):
        adamw_32bit([torch.zeros(300)], [torch.zeros(300)], torch.zeros(1, 256), torch.zeros(1, 256), step=1, lr=0.1)
