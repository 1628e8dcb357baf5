"""AdamW as an optimizer: groups, missing gradients, exact restoring, sizes; the arithmetic is tested in tests/ops."""

import copy

import pytest
import safetensors.torch
import torch

from quatrain.errors import CheckpointError, ConfigError, OptimizerError
from quatrain.optim import AdamW

SHAPES = [(64, 100), (3, 5), (4096,), (17, 301), (4095,)]


def parameters(shapes=SHAPES, seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]


def run(optimizer: AdamW, steps: range, missing: tuple[int, ...] = ()) -> None:
    """Steps with gradients that depend on the step only."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for i, p in enumerate(params):
            grad = 0.1 * torch.randn(p.shape, generator=generator)
            p.grad = None if i in missing else grad
        optimizer.step()


@pytest.mark.parametrize("paged", ["auto", True, False])
def test_thirty_two_bits_equal_torch(paged):
    ours, theirs = parameters(), parameters()
    groups = [{"params": ours[:2], "lr": 0.03}, {"params": ours[2:], "weight_decay": 0.2, "betas": (0.5, 0.9)}]
    their_groups = [{**g, "params": theirs[:2] if i == 0 else theirs[2:]} for i, g in enumerate(groups)]
    optimizer = AdamW(groups, lr=0.01, state_bits=32, paged=paged)
    reference = torch.optim.AdamW(their_groups, lr=0.01, weight_decay=0.0)
    run(optimizer, range(30))
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        for p in theirs:
            p.grad = 0.1 * torch.randn(p.shape, generator=generator)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_eight_bits_solve_a_least_squares_problem_as_well_as_thirty_two():
    losses = {}
    for bits in (8, 32):
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(256, 64, generator=generator), torch.randn(256, 64, generator=generator)
        weight = torch.nn.Parameter(torch.zeros(64, 64))
        optimizer = AdamW([weight], lr=0.01, state_bits=bits)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (x @ weight - y).square().mean()
            loss.backward()
            optimizer.step()
        losses[bits] = float(loss.detach())
    assert losses[8] == pytest.approx(losses[32], rel=1e-3)


@pytest.mark.parametrize("bits", [8, 32])
def test_parameters_without_gradient_wait(bits):
    """A parameter that misses steps ends where one ends that was never offered them, its bias correction included."""
    shapes = [(64, 100), (64, 64), (17, 301)]
    with_gaps, alone = parameters(shapes), parameters(shapes)[1:2]
    optimizer = AdamW(with_gaps, lr=0.01, state_bits=bits)
    only = AdamW(alone, lr=0.01, state_bits=bits)
    run(optimizer, range(3), missing=(1,))
    assert torch.equal(with_gaps[1], alone[0])
    for step in range(3, 6):
        run(optimizer, range(step, step + 1))
        assert with_gaps[1].grad is not None
        alone[0].grad = with_gaps[1].grad.clone()
        only.step()
    assert torch.equal(with_gaps[1], alone[0])
    expected = {f"1.{name.partition('.')[2]}": t for name, t in only.state_tensors().items()}
    saved = optimizer.state_tensors()
    assert all(torch.equal(saved[name], t) for name, t in expected.items())


def test_the_learning_rate_of_a_group_can_change():
    (param,) = parameters([(5000,)])
    optimizer = AdamW([param], lr=0.01)
    optimizer.param_groups[0]["lr"] = 0.0
    before = param.detach().clone()
    run(optimizer, range(1))
    assert torch.equal(param, before)


def test_scheduler_and_closure_of_torch_work():
    (param,) = parameters([(5000,)])
    optimizer = AdamW([param], lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (step + 1))

    def closure() -> float:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == pytest.approx(float(parameters([(5000,)])[0].detach().square().sum()))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.005


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("way", ["state_dict", "state_tensors"])
def test_restored_training_goes_on_with_the_same_bits(tmp_path, bits, way):
    params = parameters()
    optimizer = AdamW(params, lr=0.01, weight_decay=0.1, state_bits=bits)
    run(optimizer, range(5), missing=(2,))
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = AdamW(resumed, lr=0.5, weight_decay=0.1, state_bits=bits)
    run(other, range(50, 52))  # whatever it held before is replaced
    with torch.no_grad():
        for p, q in zip(resumed, params, strict=True):
            p.copy_(q)
    if way == "state_dict":
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert other.param_groups[0]["lr"] == 0.01
    else:
        safetensors.torch.save_file(optimizer.state_tensors(), tmp_path / "optimizer.safetensors")
        other.load_state_tensors(safetensors.torch.load_file(tmp_path / "optimizer.safetensors"))
        other.param_groups[0]["lr"] = 0.01
    run(optimizer, range(5, 10))
    run(other, range(5, 10))
    assert all(map(torch.equal, params, resumed))
    saved, again = optimizer.state_tensors(), other.state_tensors()
    assert saved.keys() == again.keys()
    assert all(torch.equal(t, again[name]) for name, t in saved.items())


def test_saved_state_is_a_copy_under_stable_names():
    optimizer = AdamW(parameters(), lr=0.01)
    assert optimizer.state_tensors() == {}
    run(optimizer, range(1))
    saved = optimizer.state_tensors()
    assert [name for name in saved if name.startswith(("0.", "1."))] == [
        *(f"0.{name}" for name in ("step", "codes1", "scales1", "codes2", "scales2")),
        *(f"1.{name}" for name in ("step", "moment1", "moment2")),
    ]
    before = saved["0.codes1"].clone()
    run(optimizer, range(1, 2))
    assert torch.equal(saved["0.codes1"], before)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"state_bits": 32}, "state_bits changed"),
        ({"shapes": [(64, 101), *SHAPES[1:]]}, "shapes or state_bits changed"),
        ({"shapes": SHAPES[:2]}, "must belong to one of 2 parameters"),
    ],
)
def test_state_of_another_run_is_refused(change, match):
    optimizer = AdamW(parameters(), lr=0.01)
    run(optimizer, range(1))
    other = AdamW(parameters(change.get("shapes", SHAPES)), lr=0.01, state_bits=change.get("state_bits", 8))
    with pytest.raises(CheckpointError, match=match):
        other.load_state_tensors(optimizer.state_tensors())


def test_a_name_without_a_number_is_refused():
    with pytest.raises(CheckpointError, match="start with a parameter's number"):
        AdamW(parameters(), lr=0.01).load_state_tensors({"weight.codes1": torch.zeros(1)})


def test_bytes_of_state():
    params = parameters([(1024, 256)])
    assert AdamW(params, lr=0.01).state_bytes / params[0].numel() == 2 + 8 / 256
    assert AdamW(params, lr=0.01, state_bits=32).state_bytes / params[0].numel() == 8
    small = parameters([(4095,)])  # one element less than what bitsandbytes keeps in eight bits
    assert AdamW(small, lr=0.01).state_bytes == 8 * 4096


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": -1.0}, "lr must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"eps": -1e-8}, "eps must be"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"betas": (0.9, 1.0)}, "betas must be"),
        ({"state_bits": 4}, "state_bits must be 8 or 32"),
        ({"paged": "sometimes"}, "paged must be"),
    ],
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(ConfigError, match=match):
        AdamW(parameters(), **{"lr": 0.01, **settings})


def test_parameters_that_it_cannot_update():
    with pytest.raises(OptimizerError, match=r"number 1 is torch\.bfloat16"):
        AdamW([*parameters([(4,)]), torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))], lr=0.01)


def test_a_refused_group_leaves_no_trace():
    optimizer = AdamW(parameters(), lr=0.01)
    with pytest.raises(ConfigError):
        optimizer.add_param_group({"params": parameters([(4,)]), "lr": -1.0})
    run(optimizer, range(1))
    assert len(optimizer.param_groups) == 1
