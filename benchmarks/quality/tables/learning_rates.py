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
from benchmarks.quality.tasks import TASKS
from benchmarks.quality.training import settings_of

TITLE = "Learning rates"
LADDER: Mapping[Method, Sequence[float]] = {
    "lora": (5e-5, 1.5e-4, 5e-4, 1.5e-3, 4e-3, 1e-2, 2.5e-2),
    "full": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    "houlsby": (3e-4, 1e-3, 3e-3, 1e-2),
    "prompt": (2e-2, 1e-1, 5e-1),
}
"""Rates that may be tried, from low to high."""
FIRST: Mapping[Method, float] = {"lora": 1.5e-3, "full": 1e-4, "houlsby": 1e-3, "prompt": 1e-1}
"""In the middle of those that are tried at first."""


def cells(plan: Plan) -> Iterator[Cell]:
    scale = plan.scale
    for task in TASKS:
        for how in (EVERYONE if task == "gsm8k" else MAIN).values():
            for rate in wanted(how.method, plan.tried.get(contest(task, how), {}), scale.grid):
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


def wanted(method: Method, tried: Mapping[float, float], first: int) -> list[float]:
    """The rates to try next, given the losses so far: `first` around the middle, then whatever lies beside the best."""
    ladder, middle = LADDER[method], LADDER[method].index(FIRST[method])
    missing = [rate for rate in ladder[middle - first // 2 : middle + first // 2 + 1] if rate not in tried]
    if missing or first == 1:
        return missing
    best = ladder.index(_best(tried))
    return [ladder[i] for i in (best - 1, best + 1) if 0 <= i < len(ladder) and ladder[i] not in tried]


def tried_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, float]]:
    """Losses by contest and rate."""
    tried: dict[str, dict[float, float]] = {}
    for row in rows:
        loss = row["loss"] if math.isfinite(row["loss"]) else math.inf
        tried.setdefault(_contest(row), {})[row["learning_rate"]] = loss
    return tried


def chosen(tried: Mapping[str, Mapping[float, float]], first: int) -> dict[str, float]:
    """The rate with the lowest loss of each contest that has nothing left to try."""
    methods: dict[str, Method] = {contest(task, how): how.method for task in TASKS for how in EVERYONE.values()}
    return {name: _best(losses) for name, losses in tried.items() if not wanted(methods[name], losses, first)}


def _best(tried: Mapping[float, float]) -> float:
    return min(tried, key=lambda rate: tried[rate])


def outdated(row: Mapping[str, Any], rates: Mapping[str, float]) -> bool:
    """Whether a row of another table was trained at a rate that has lost since."""
    return bool(row["held_out"]) and rates.get(_contest(row), row["learning_rate"]) != row["learning_rate"]


def markdown(found: Mapping[str, Any]) -> str:
    lines = [line(["text, method, base, adapted linears", "rates and validation losses, the best one in bold"])]
    lines.append(line(["---"] * 2))
    for name, tried in tried_of(usual(found["learning_rates"]["rows"])).items():
        best = _best(tried)
        shown = [f"{rate:g}: {_bold(f'{loss:.4f}', rate == best)}" for rate, loss in sorted(tried.items())]
        at_end = best in (min(tried), max(tried))
        lines.append(line([name, ", ".join(shown) + (" (at the grid's end)" if at_end else "")]))
    return "\n".join(lines)


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _contest(row: Mapping[str, Any]) -> str:
    how = Tuning(method=row["method"], quantization=row["quantization"], targets=row["targets"])
    return contest(row["task"], how)
