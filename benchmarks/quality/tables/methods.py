"""QLoRA beside everything else that people fine-tune with: what is trained, and what it costs and brings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.cells import line
from benchmarks.quality.cell import Cell, Plan
from benchmarks.quality.intervals import answers_shown, mean_interval, shown
from benchmarks.quality.models import Tuning
from benchmarks.quality.tables.contests import (
    EVERYONE,
    FULL,
    HOULSBY,
    LORA,
    LORA_FIRST,
    OTHERS,
    PLAIN,
    PROMPT,
    QLORA,
    contest,
    is_of,
    training,
    usual,
)
from benchmarks.quality.tables.learning_rates import FIRST
from benchmarks.quality.training import Training, settings_of

TITLE = "Methods"
COMPARED: Mapping[str, Tuning] = {
    **{name: EVERYONE[name] for name in (FULL, HOULSBY, PROMPT)},
    **PLAIN,
    **{name: EVERYONE[name] for name in (LORA, LORA_FIRST, QLORA)},
}


def cells(plan: Plan) -> Iterator[Cell]:
    for how in COMPARED.values():
        yield _cell(_run(plan, how, FIRST[how.method], timed=True), alone=True)
    for how in OTHERS.values():
        rate = plan.rates.get(contest("gsm8k", how))
        if rate is not None:
            for seed in plan.scale.seeds:
                yield _cell(_run(plan, how, rate, seed=seed), alone=False)


def _cell(run: Training, alone: bool) -> Cell:
    return Cell(table="methods", measure="training", settings=settings_of(run), alone=alone)


def _run(plan: Plan, how: Tuning, rate: float, *, seed: int | None = None, timed: bool = False) -> Training:
    scale, seed = plan.scale, plan.scale.seeds[0] if seed is None else seed
    answers = 0 if timed or how.method == "prompt" else scale.answers_on("gsm8k", seed)
    return training(
        how,
        task="gsm8k",
        learning_rate=rate,
        steps=scale.timed if timed else scale.steps,
        rows=scale.rows,
        seed=seed,
        held_out=0 if timed else scale.held_out,
        answers=answers,
    )


def markdown(found: Mapping[str, Any]) -> str:
    head = ["method", "trained", "step", "peak memory", "held-out loss", "right answers"]
    lines = [line(head), line(["---"] * len(head))]
    rows = found["methods"]["rows"]
    for name, how in COMPARED.items():
        timed = [row for row in rows if row["held_out"] == 0 and is_of(row, how)]
        source = rows if name in OTHERS else usual(found["parity"]["rows"])
        runs = [row for row in source if row["held_out"] and row["task"] == "gsm8k" and is_of(row, how)]
        lines += [line([name, *_costs(row), *_quality(runs)]) for row in timed]
    return "\n".join(lines)


def _costs(timed: Mapping[str, Any]) -> list[str]:
    share = timed["trained"] / timed["base_parameters"]
    return [
        f"{timed['trained'] / 1e6:.2f} M, {share:.2%}",
        f"{timed['step_ms']:.1f} ms",
        f"{timed['peak_gib']:.2f} GiB",
    ]


def _quality(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    losses = [row["loss"] for row in runs]
    return [shown(mean_interval(losses)) if losses else "–", answers_shown(runs)]
