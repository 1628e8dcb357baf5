"""An optimizer step on a model's LoRA adapters, on fresh random gradients."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.case import (
    BITSANDBYTES,
    QUATRAIN,
    TORCH,
    TWO_CORES,
    Case,
    Contender,
    Kind,
    Play,
    Row,
    Rows,
    Setting,
    WrongResult,
)
from benchmarks.gate import relative_error
from benchmarks.shapes import SHAPES
from benchmarks.timing import release, step_ms

KIND = Kind(
    title="An optimizer step on an adapter",
    note="AdamW on float32 parameters, by the width of its state; paged state lives in pinned host memory.",
)
WARM_UP, STEPS = 5, 30
EIGHT, WIDE, EIGHT_PAGED, WIDE_PAGED = "8-bit", "32-bit", "8-bit, paged", "32-bit, paged"
TOLERANCE = {EIGHT: 2e-2, WIDE: 1e-5, EIGHT_PAGED: 2e-2, WIDE_PAGED: 1e-5}
"""Of the way that parameters went in five steps, against torch.optim.AdamW in float64. Eight-bit state is coarse."""

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


def quatrain(on_gpu: bool) -> dict[str, Make]:
    from quatrain.optim import AdamW

    kinds: dict[str, dict[str, Any]] = {
        EIGHT: {"state_bits": 8, "paged": False},
        WIDE: {"state_bits": 32, "paged": False},
    }
    if on_gpu:
        kinds |= {EIGHT_PAGED: {"state_bits": 8, "paged": True}, WIDE_PAGED: {"state_bits": 32, "paged": True}}
    return {name: partial(AdamW, lr=1e-4, **options) for name, options in kinds.items()}


def bitsandbytes(on_gpu: bool) -> dict[str, Make]:
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    makes: dict[str, Make] = {EIGHT: partial(AdamW8bit, lr=1e-4, weight_decay=0.0)}
    if on_gpu:
        makes[EIGHT_PAGED] = partial(PagedAdamW8bit, lr=1e-4, weight_decay=0.0)
    return makes


def pytorch(on_gpu: bool) -> dict[str, Make]:
    return {WIDE: partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.0)}


def measure(makes_of: Callable[[bool], Mapping[str, Make]], model: str, r: int, setting: Setting) -> Rows:
    rows = {}
    for name, make in makes_of(setting.device.type == "cuda").items():
        error = _error(make, name, setting.device)
        optimizer = make(adapters(model, r, setting.device))
        for _ in range(WARM_UP):
            _timed_step(optimizer, setting.device)
        samples = [_timed_step(optimizer, setting.device) for _ in range(setting.repetitions(STEPS))]
        rows[name] = Row(samples_ms=samples, values={"error": error})
        del optimizer
        release(setting.device)
    return rows


def adapters(model: str, r: int, device: torch.device) -> list[torch.nn.Parameter]:
    """A [r, inputs] and B [outputs, r] of every linear of the blocks."""
    shape = SHAPES[model]
    sizes = [s for outputs, inputs in shape.linears.values() for s in ((r, inputs), (outputs, r))] * shape.blocks
    return [torch.nn.Parameter(0.01 * torch.randn(size, device=device)) for size in sizes]


def _timed_step(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    elapsed = step_ms(optimizer.step, device)
    optimizer.zero_grad()
    return elapsed


def _error(make: Make, name: str, device: torch.device) -> float:
    """How far five steps end from where float64 takes them, relative to the way that they go."""
    start = 0.01 * torch.randn(64, 320, device=device)
    found, true = (torch.nn.Parameter(start.to(dtype, copy=True)) for dtype in (torch.float32, torch.float64))
    optimizers = make([found]), torch.optim.AdamW([true], lr=1e-4, weight_decay=0.0)
    for _ in range(5):
        found.grad = 1e-3 * torch.randn_like(found)
        true.grad = found.grad.double()
        for optimizer in optimizers:
            optimizer.step()
    error = relative_error(found - start, true.detach() - start)
    if not error <= TOLERANCE[name]:
        raise WrongResult(f"{name}: relative error {error:.1e} of the way (at most {TOLERANCE[name]:.0e})")
    return error


MAKERS: dict[Contender, Callable[[bool], dict[str, Make]]] = {
    TORCH: pytorch,
    BITSANDBYTES: bitsandbytes,
    QUATRAIN: quatrain,
}


def _contenders(model: str, r: int) -> dict[Contender, Play]:
    return {who: Play(partial(measure, makes_of, model, r)) for who, makes_of in MAKERS.items()}


CASES = (
    Case(
        name="optimizer",
        kind=KIND,
        title="SmolLM2-135M, r = 16, two CPU cores",
        contenders=_contenders("smollm2", 16),
        device="cpu",
        options={"model": "smollm2", "r": 16},
        environment=TWO_CORES,
    ),
    Case(
        name="optimizer_gpu",
        kind=KIND,
        title="8B, r = 64",
        contenders=_contenders("8b", 64),
        device="cuda",
        options={"model": "8b", "r": 64},
        limit_s=120,
    ),
)
