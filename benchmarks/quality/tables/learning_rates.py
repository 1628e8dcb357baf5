"""The rate of every method: a small grid on one seed, judged on rows that are neither trained on nor reported.

A method that got another's rate would lose for that alone: full fine-tuning wants a tenth of LoRA's, prompt tuning a
hundred times as much. The rate that wins at rank 16 serves all ranks, since LoRA's scale is α/r.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.cells import line
from benchmarks.quality.cell import Cell, Plan
from benchmarks.quality.models import Method, Tuning
from benchmarks.quality.tables.contests import EVERYONE, MAIN, contest, training, usual
from benchmarks.quality.tasks import TASKS, Task
from benchmarks.quality.training import settings_of

TITLE = "Learning rates"
RATES: Mapping[Task, Mapping[Method, Sequence[float]]] = {
    "gsm8k": {
        "lora": (1.5e-3, 5e-4, 4e-3, 1e-2, 2.5e-2),
        "full": (1e-4, 3e-5, 3e-4, 1e-3),
        "houlsby": (1e-3, 3e-4, 3e-3, 1e-2),
        "prompt": (1e-1, 2e-2, 5e-1),
    },
    "oasst": {"lora": (1.5e-3, 5e-4, 4e-3, 1.5e-4, 5e-5), "full": (1e-4, 3e-5, 3e-4, 1e-5)},
}
"""Tried for each: three, and more on the side where the best of them lay at an end."""


def cells(plan: Plan) -> Iterator[Cell]:
    scale = plan.scale
    for task in TASKS:
        for how in (EVERYONE if task == "gsm8k" else MAIN).values():
            for rate in RATES[task][how.method][: scale.grid]:
                run = training(
                    how,
                    task=task,
                    learning_rate=rate,
                    steps=scale.steps_on(task),
                    rows=scale.rows,
                    seed=scale.seeds[0],
                    split="validation",
                    held_out=scale.held_out,
                )
                yield Cell(table="learning_rates", measure="training", settings=settings_of(run))


def chosen(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The rate with the lowest loss of each contest."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        name = _contest(row)
        if math.isfinite(row["loss"]) and (name not in best or row["loss"] < best[name]["loss"]):
            best[name] = row
    return {name: row["learning_rate"] for name, row in best.items()}


def outdated(row: Mapping[str, Any], rates: Mapping[str, float]) -> bool:
    """Whether a row of another table was trained at a rate that has lost since."""
    return bool(row["held_out"]) and rates.get(_contest(row), row["learning_rate"]) != row["learning_rate"]


def markdown(found: Mapping[str, Any]) -> str:
    rows = usual(found["learning_rates"]["rows"])
    best = chosen(rows)
    losses: dict[str, dict[float, float]] = {_contest(row): {} for row in rows}
    for row in rows:
        losses[_contest(row)][row["learning_rate"]] = row["loss"]
    lines = [line(["text, method, base, adapted linears", "rates and validation losses, the chosen one in bold"])]
    lines.append(line(["---"] * 2))
    for name, tried in losses.items():
        shown = [f"{rate:g}: {_bold(f'{loss:.4f}', rate == best.get(name))}" for rate, loss in sorted(tried.items())]
        at_end = best.get(name) in (min(tried), max(tried))
        lines.append(line([name, ", ".join(shown) + (" (at the grid's end)" if at_end else "")]))
    return "\n".join(lines)


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _contest(row: Mapping[str, Any]) -> str:
    how = Tuning(method=row["method"], quantization=row["quantization"], targets=row["targets"])
    return contest(row["task"], how)
