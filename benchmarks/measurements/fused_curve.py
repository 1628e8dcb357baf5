"""SmolLM2-135M on GSM8K twice: on blocks of our own, and through the model's modules and autograd.

The same rows, order, start, schedule and optimizer; what differs is who computes. A logged step is the mean of ten, as
a run with `logging_steps: 10` writes it: single steps of four rows differ by the rounding of 16 bits alone. How much of
the difference is rounding, a third run says: autograd in float32, from which both are a distance away.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from benchmarks.case import OFFLINE, ONE_CORE, Case, Contender, Kind, Play, Row, Rows, Setting
from benchmarks.measurements.loss_curves import (
    ALPHA,
    CURVE,
    LEARNING_RATE,
    RANK,
    ROWS_A_STEP,
    Run,
    batches_of,
    curve_of,
    start,
)

LOGGED = 10
FUSED = Contender("fused", "own blocks")
AUTOGRAD = Contender("autograd", "autograd")
EXACT = Contender("autograd_float32", "autograd, float32")


def remark(case: Case, entries: Mapping[str, Any]) -> str:
    """How far apart the curves are."""
    curves = {who: _losses(entries, who) for who in (FUSED, AUTOGRAD, EXACT)}
    fused, autograd, exact = curves.values()
    if fused is None or autograd is None:
        return ""
    single = max(abs(a - b) / b for a, b in zip(fused, autograd, strict=True))
    found = (
        f"{case.title}: the loss of {LOGGED} steps differs by at most {_apart(fused, autograd):.3%}, that of one step "
        f"by at most {single:.3%}"
    )
    if exact is None:
        return f"{found}."
    return (
        f"{found}; from autograd in float32, own blocks by at most {_apart(fused, exact):.3%} and autograd by at most "
        f"{_apart(autograd, exact):.3%}."
    )


def _losses(entries: Mapping[str, Any], who: Contender) -> list[float] | None:
    curve = entries.get(who.name, {}).get("rows", {}).get(CURVE)
    return None if curve is None else curve["losses"]


def _apart(losses: list[float], others: list[float]) -> float:
    """The largest relative difference of two curves' logged steps."""
    logged = range(0, len(losses), LOGGED)
    return max(abs(_mean(losses, at) - _mean(others, at)) / _mean(others, at) for at in logged)


def _mean(losses: list[float], at: int) -> float:
    return sum(losses[at : at + LOGGED]) / LOGGED


KIND = Kind(
    title="Own blocks and autograd: the same training",
    note=f"SmolLM2-135M on GSM8K, steps of {ROWS_A_STEP} rows, r = {RANK}.",
    shows=("last",),
    remark=remark,
)


def _train(fused: Any, run: Run, setting: Setting) -> Rows:
    from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
    from quatrain.models import load_model
    from quatrain.models.objective import Objective
    from quatrain.optim import AdamW
    from quatrain.training.step import train_step

    model, tokenizer = load_model(setting.models / "smollm2", compute_dtype=run.dtype, device=str(setting.device))
    attach_lora(model, LoraConfig(r=RANK, lora_alpha=ALPHA))
    adapter = adapter_parameters(model)
    start(adapter)
    parameters = list(adapter.values())
    objective = Objective(model, packing=False, fused_blocks=fused)
    optimizer = AdamW(parameters, lr=LEARNING_RATE)
    model.train()

    def step(batch: Any) -> float:
        return train_step(objective, parameters, optimizer, [batch], max_grad_norm=1.0).loss

    losses = curve_of(run, step, optimizer, batches_of("train", run.steps * ROWS_A_STEP, tokenizer))
    return {CURVE: Row(values={"losses": losses, "last": _mean(losses, run.steps - LOGGED)})}


def _case(name: str, title: str, run: Run, device: Any, environment: dict[str, str]) -> Case:
    plays = {who: Play(partial(_train, on, run)) for who, on in ((FUSED, "on"), (AUTOGRAD, "off"))}
    if run.dtype != "float32":
        plays[EXACT] = Play(partial(_train, "off", replace(run, dtype="float32")))
    return Case(
        name=name,
        kind=KIND,
        title=title,
        contenders=plays,
        device=device,
        options=asdict(run),
        models=("smollm2",),
        limit_s=5400 if device == "cpu" else 300,
        environment=environment,
        listed=device == "cuda",
    )


def _run(steps: int, dtype: Any) -> Run:
    return Run(steps=steps, schedule=200, dtype=dtype, perplexity=False)


CASES = [
    _case("fused_curve", "200 steps in bfloat16, on a GPU", _run(200, "bfloat16"), "cuda", OFFLINE),
    _case("fused_curve_float32", "200 steps in float32, on a GPU", _run(200, "float32"), "cuda", OFFLINE),
    _case("fused_curve_cpu", "200 steps in bfloat16, on a CPU", _run(200, "bfloat16"), "cpu", ONE_CORE),
    _case("fused_curve_cpu_float32", "40 of these steps in float32", _run(40, "float32"), "cpu", ONE_CORE),
]
