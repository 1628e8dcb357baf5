"""8-bit AdamW against bitsandbytes on the CPU, and its kernel against its reference."""

import pytest
import torch
from torch import Tensor

from quatrain.errors import OptimizerError
from quatrain.ops.adamw_8bit import adamw_8bit, reference
from quatrain.ops.adamw_32bit.rows import rows_of

SHAPES = [(64, 100), (4096,), (17, 301), (3, 5), (1,)]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fresh_state(params: list[Tensor]) -> list[Tensor]:
    rows = sum(map(rows_of, params))
    codes, scales = torch.zeros(rows, 256, dtype=torch.uint8), torch.zeros(rows)
    return [t.clone().to(params[0].device) for t in (codes, scales, codes, scales)]


def gradients(shapes: list[tuple[int, ...]], generator: torch.Generator) -> list[Tensor]:
    """Normal, times magnitudes that spread over several decades within a block, as real gradients do."""
    return [
        0.1 * torch.randn(s, generator=generator) * 10 ** (0.5 * torch.randn(s, generator=generator)) for s in shapes
    ]


def nearest_code(x: Tensor, code: Tensor, absmax: Tensor, out: Tensor, block_size: int) -> None:
    """Block-wise quantization by definition, in place of bitsandbytes' look-up in a grid of 65,536 positions."""
    blocks = torch.nn.functional.pad(x.view(-1), (0, -x.numel() % block_size)).view(-1, block_size)
    absmax.copy_(blocks.abs().amax(1))
    quotients = blocks * (1 / absmax.clamp(min=1e-38)).unsqueeze(1)
    codes = (quotients.unsqueeze(-1) - code).abs().argmin(-1)
    if code[0] == 0:
        codes = torch.where((codes == 0) & (quotients > 0), 1, codes)
    out.copy_(codes.view(-1)[: x.numel()].view(out.shape))


def run_beside_bitsandbytes(shape: tuple[int, ...], steps: int, seed: int, weight_decay: float):
    """The same problem twice: our parameter and state, bitsandbytes' parameter and state, and the start."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    generator = torch.Generator().manual_seed(seed)
    ours = torch.randn(shape, generator=generator)
    theirs = torch.nn.Parameter(ours.clone())
    start = ours.clone()
    state = fresh_state([ours])
    optimizer = bitsandbytes.optim.AdamW8bit([theirs], lr=1e-2, weight_decay=weight_decay)
    for step in range(1, steps + 1):
        (grad,) = gradients([shape], generator)
        theirs.grad = grad.clone()
        optimizer.step()
        adamw_8bit([ours], [grad], *state, step=step, lr=1e-2, weight_decay=weight_decay)
    return ours, state, theirs.detach(), optimizer.state[theirs], start


@pytest.mark.parametrize(("shape", "weight_decay"), [((64, 100), 0.0), ((17, 301), 0.1), ((4096,), 0.01)])
def test_same_bits_as_bitsandbytes_with_exact_rounding(monkeypatch, shape, weight_decay):
    """With the one approximation of bitsandbytes' CPU library replaced, 60 steps give the same codes and values."""
    bitsandbytes_ops = pytest.importorskip("bitsandbytes.backends.cpu.ops")
    monkeypatch.setattr(bitsandbytes_ops, "_quant_blockwise_fp32_direct", nearest_code)
    ours, state, theirs, their_state, _ = run_beside_bitsandbytes(shape, 60, 1, weight_decay)
    codes1, scales1, codes2, scales2 = state
    assert torch.equal(ours, theirs)
    assert torch.equal(codes1.view(-1)[: ours.numel()].view(shape), their_state["state1"])
    assert torch.equal(codes2.view(-1)[: ours.numel()].view(shape), their_state["state2"])
    assert torch.equal(scales1, their_state["absmax1"])
    assert torch.equal(scales2, their_state["absmax2"])


@pytest.mark.parametrize("seed", range(3))
def test_first_step_differs_from_bitsandbytes_only_in_codes_near_a_threshold(seed):
    """Their CPU library looks codes up in a grid over [-1, 1]; half a cell (2⁻¹⁶) is as far as it can be off."""
    ours, state, theirs, their_state, _ = run_beside_bitsandbytes((64, 256), 1, seed, 0.0)
    codes1, scales1, codes2, scales2 = state
    assert torch.equal(ours, theirs)
    assert torch.equal(scales1, their_state["absmax1"])
    assert torch.equal(scales2, their_state["absmax2"])
    for signed, mine, other in ((True, codes1, their_state["state1"]), (False, codes2, their_state["state2"])):
        values = reference.dynamic_map(signed, torch.device("cpu"))
        off_by = (values[mine.int()] - values[other.view_as(mine).int()]).abs()
        width_of_a_code = torch.gradient(values)[0][torch.maximum(mine, other.view_as(mine)).int()].abs()
        assert (off_by <= 2 * width_of_a_code + 2**-15).all()


@pytest.mark.parametrize("seed", range(3))
def test_hundred_steps_stay_near_bitsandbytes(seed):
    """Their grid moves small second moments by up to 2⁻¹⁶ of the block's largest: up to 3 % of the way, seen here."""
    ours, _, theirs, _, start = run_beside_bitsandbytes((17, 301), 100, seed, 0.01)
    assert (ours - theirs).norm() < 0.05 * (theirs - start).norm()
    assert (ours - theirs).abs().max() < 0.05  # 100 steps of up to 0.01


@pytest.mark.parametrize("shapes", [SHAPES, [(1,)], [(255,), (256,), (257,), (2, 3, 7)]])
def test_kernel_equals_reference(shapes):
    """Codes agree but for rounding ties that a fused multiplication decides otherwise; the rest to float32 rounding."""
    pytest.importorskip("triton")
    from quatrain.ops.adamw_8bit import triton as kernel

    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(s, generator=generator) for s in shapes]
    expected, state = [p.clone() for p in start], fresh_state(start)
    actual = [p.clone().to(DEVICE) for p in start]
    kernel_state = fresh_state(actual)
    settings = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    for step in range(1, 4):
        grads = gradients(shapes, generator)
        reference.adamw_8bit(expected, grads, *state, step=step, **settings)
        kernel.adamw_8bit(actual, [g.to(DEVICE) for g in grads], *kernel_state, step=step, **settings)
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-5, atol=1e-5)
    for one, other in zip(state, kernel_state, strict=True):
        if one.dtype == torch.uint8:
            assert (one.int() - other.cpu().int()).abs().max() <= 1
            assert (one != other.cpu()).float().mean() < 1e-3
        else:
            torch.testing.assert_close(other.cpu(), one, rtol=1e-3, atol=0)


def test_leftover_of_a_row_is_never_written():
    """Parameters and gradients end where their memory ends; values beyond stay NaN, and none leaks into the state."""
    pytest.importorskip("triton")
    from quatrain.ops.adamw_8bit import triton as kernel

    memory = torch.full((2, 1024), torch.nan, device=DEVICE)
    param, grad = memory[0, 256:556], memory[1, 256:556]
    param.fill_(1.0)
    grad.fill_(0.5)
    state = fresh_state([param])
    kernel.adamw_8bit([param], [grad], *state, step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    torch.testing.assert_close(param, torch.full_like(param, 0.9))
    assert memory[:, :256].isnan().all() and memory[:, 556:].isnan().all()
    assert not state[1].isnan().any() and not state[3].isnan().any()


def test_a_step_of_many_pieces_equals_each_parameter_alone():
    generator = torch.Generator().manual_seed(0)
    shapes = [(300, 1000), (5,), (70000,), (256,)]
    together = [torch.randn(s, generator=generator) for s in shapes]
    alone = [p.clone() for p in together]
    state, states = fresh_state(together), [fresh_state([p]) for p in alone]
    for step in (1, 2):
        grads = gradients(shapes, generator)
        adamw_8bit(together, grads, *state, step=step, lr=0.1)
        for p, g, s in zip(alone, grads, states, strict=True):
            adamw_8bit([p], [g], *s, step=step, lr=0.1)
    assert all(map(torch.equal, together, alone))
    for i, tensor in enumerate(state):
        assert torch.equal(tensor, torch.cat([s[i] for s in states]))


def test_a_gradient_of_zeros_changes_nothing():
    param = torch.ones(600)
    state = fresh_state([param])
    adamw_8bit([param], [torch.zeros(600)], *state, step=1, lr=0.1)
    assert torch.equal(param, torch.ones(600))
    assert not state[1].any() and not state[3].any()


@pytest.mark.parametrize(
    ("param", "grad", "rows", "match"),
    [
        (torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4), 1, "Parameter 0 must be contiguous float32"),
        (torch.zeros(4, 4).T[:, :2], torch.zeros(4, 2), 1, "Parameter 0 must be contiguous"),
        (torch.zeros(4), torch.zeros(5), 1, "its gradient"),
        (torch.zeros(4), torch.zeros(4), 2, "doesn't belong to these parameters"),
    ],
)
def test_arguments_that_do_not_fit(param, grad, rows, match):
    codes, scales = torch.zeros(rows, 256, dtype=torch.uint8), torch.zeros(rows)
    with pytest.raises(OptimizerError, match=match):
        adamw_8bit([param], [grad], codes, scales, codes.clone(), scales.clone(), step=1, lr=0.1)
