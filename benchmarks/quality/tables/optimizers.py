"""AdamW's state in 32 bits, in 8, and in 8 in pinned host memory: the same training three times."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.cells import line
from benchmarks.quality.cell import Cell, Plan
from benchmarks.quality.intervals import mean_interval, shown
from benchmarks.quality.models import Tuning
from benchmarks.quality.tables.contests import training
from benchmarks.quality.training import settings_of

TITLE = "Optimizers"
STATES = ("32-bit", "8-bit", "8-bit paged")
HOW = Tuning(method="lora", quantization="nf4", r=64)
LEARNING_RATE = 1e-3


def cells(plan: Plan) -> Iterator[Cell]:
    scale = plan.scale
    for seed in scale.seeds:
        for optimizer in STATES:
            run = training(
                HOW,
                task="gsm8k",
                learning_rate=LEARNING_RATE,
                steps=scale.steps,
                rows=scale.rows,
                seed=seed,
                optimizer=optimizer,
                held_out=scale.held_out,
                curve=True,
            )
            first = seed == scale.seeds[0]
            yield Cell(table="optimizers", measure="training", settings=settings_of(run), alone=first)


def markdown(found: Mapping[str, Any]) -> str:
    rows = found["optimizers"]["rows"]
    timed = found["optimizers"]["seeds"][0]
    head = [
        "AdamW's state",
        "held-out loss",
        "largest difference of a step's loss",
        "step",
        "state's size",
        "peak of the process' GPU",
    ]
    lines = [line(head), line(["---"] * len(head))]
    curves = {(row["optimizer"], row["seed"]): row["losses"] for row in rows}
    for state in STATES:
        mine = [row for row in rows if row["optimizer"] == state]
        alone = next(row for row in mine if row["seed"] == timed)
        apart = [
            abs(a - b) / b for row in mine for a, b in zip(row["losses"], curves[STATES[0], row["seed"]], strict=True)
        ]
        lines.append(
            line(
                [
                    state,
                    shown(mean_interval([row["loss"] for row in mine])),
                    f"{max(apart):.2%}" if state != STATES[0] else "",
                    f"{alone['step_ms']:.1f} ms",
                    f"{alone['state_bytes'] / 2**20:.1f} MiB",
                    f"{alone['peak_gib']:.3f} GiB",
                ]
            )
        )
    return "\n".join(lines)
