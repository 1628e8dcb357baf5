"""The same training on a 4-bit and on a 16-bit base: by type, by rank, by layers, and what narrows the gap.

Losses are compared seed by seed: two runs of one seed see the same rows at the same step and begin at the same A, so
their difference says more than two means do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from benchmarks.cells import line
from benchmarks.quality.cell import Cell, Plan, Scale
from benchmarks.quality.intervals import answers_shown, mean_interval, shown
from benchmarks.quality.models import Tuning
from benchmarks.quality.tables.contests import (
    FP4,
    FULL,
    INT4,
    LORA,
    LORA_ATTENTION,
    MAIN,
    QLORA,
    QLORA_ATTENTION,
    contest,
    is_of,
    training,
    usual,
)
from benchmarks.quality.tasks import TASKS, Task
from benchmarks.quality.training import settings_of

TITLE = "Training on four and on sixteen bits"
RANK, WIDE = 16, 64
ANSWERING = (FULL, LORA, QLORA)
"""Whose answers are scored as well."""
TARGET = 0.005
"""The claim: QLoRA's loss is this near to LoRA's."""


def cells(plan: Plan) -> Iterator[Cell]:
    """The main comparison first, then what explains it, then the other ranks: whoever stops early has what matters."""
    scale = plan.scale
    for task, how, steps, seeds in (*_main(scale), *_controls_of(scale), *_by_rank(scale)):
        rate = plan.rates.get(contest(task, how))
        for seed in seeds if rate is not None else ():
            answering = steps == scale.steps and how in (MAIN[name] for name in ANSWERING)
            run = training(
                how,
                task=task,
                learning_rate=rate,
                steps=steps,
                rows=scale.rows,
                seed=seed,
                held_out=scale.held_out,
                answers=scale.answers_on(task, seed) if answering else 0,
            )
            yield Cell(table="parity", measure="training", settings=settings_of(run))


Run = tuple[Task, Tuning, int, Sequence[int]]
"""(text, what is trained, steps, seeds)."""


def _main(scale: Scale) -> Iterator[Run]:
    for task in TASKS:
        for how in MAIN.values():
            yield task, how, scale.steps_on(task), scale.seeds


def _controls_of(scale: Scale) -> Iterator[Run]:
    """What narrows the gap, on GSM8K; the dear ones on one seed."""
    for name in (LORA, QLORA):
        yield "gsm8k", MAIN[name], scale.longer, scale.seeds[:1]
    for how in CONTROLS.values():
        yield "gsm8k", how, scale.steps, scale.seeds if how.start == "plain" else scale.seeds[:1]


def _by_rank(scale: Scale) -> Iterator[Run]:
    """The lowest and the highest rank first."""
    others = [r for r in scale.ranks if r != RANK]
    extremes = others[:1] + others[1:][-1:]
    for ranks in (extremes, [r for r in others if r not in extremes]):
        for task, name in product(TASKS, (LORA, QLORA)):
            for r in ranks:
                yield task, replace(MAIN[name], r=r), scale.steps_on(task), scale.seeds
    for task, name in product(TASKS, (LORA_ATTENTION, QLORA_ATTENTION)):
        yield task, replace(MAIN[name], r=WIDE), scale.steps_on(task), scale.seeds


CONTROLS: Mapping[str, Tuning] = {
    "NF4 in blocks of 32": replace(MAIN[QLORA], block_size=32),
    "NF4, LoftQ's start, r = 64": replace(MAIN[QLORA], start="loftq", r=WIDE),
}


def markdown(found: Mapping[str, Any]) -> str:
    return "\n\n".join(part for task in TASKS for part in _of_task(found, task))


def _of_task(found: Mapping[str, Any], task: Task) -> Iterator[str]:
    rows = [row for row in usual(found["parity"]["rows"]) if row["task"] == task]
    before = {row["quantization"]: row[f"{task}_loss"] for row in _default_types(found)}
    answered = any("number_match" in row for row in rows)
    head = [f"{task.upper()}, r = {RANK}", "before", "after", "beside LoRA in 16 bits", *["right answers"] * answered]
    lines = [line(head), line(["---"] * len(head))]
    reference = losses_of(rows, MAIN[LORA])
    for name in (FULL, LORA, QLORA, FP4, INT4):
        how = MAIN[name]
        start = before.get(how.quantization)
        loss, apart = _compared(losses_of(rows, how), reference)
        mark = _mark(losses_of(rows, how), reference) if how.quantization else ""
        right = [answers_shown([row for row in rows if is_of(row, how)])] * answered
        lines.append(line([name, f"{start:.4f}" if start else "–", loss, apart + mark, *right]))
    yield "\n".join(lines)
    yield _ranks(rows, task)
    if task == "gsm8k":
        yield _controls(found, rows)


def _ranks(rows: Sequence[Mapping[str, Any]], task: Task) -> str:
    head = [f"{task.upper()}, by rank", "trained", "LoRA, 16 bits", "QLoRA, NF4", "QLoRA beside LoRA"]
    lines = [line(head), line(["---"] * len(head))]
    for one, other, title in ((LORA, QLORA, "all linears"), (LORA_ATTENTION, QLORA_ATTENTION, "attention only")):
        for r in sorted({row["r"] for row in rows if row["method"] == "lora"}):
            plain, packed = (losses_of(rows, replace(MAIN[name], r=r)) for name in (one, other))
            if plain and packed:
                trained = next(row["trained"] for row in rows if is_of(row, replace(MAIN[one], r=r)))
                losses = shown(mean_interval(list(plain.values())))
                lines.append(line([f"{title}, r = {r}", f"{trained / 1e6:.2f} M", losses, *_compared(packed, plain)]))
    return "\n".join(lines)


def _controls(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What brings QLoRA nearer to LoRA, each against LoRA of the same rank and length."""
    head = ["GSM8K, what narrows the gap", "loss", "beside LoRA in 16 bits"]
    lines = [line(head), line(["---"] * len(head))]
    without = {"NF4 in blocks of 64": MAIN[QLORA], "NF4 in blocks of 64, r = 64": replace(MAIN[QLORA], r=WIDE)}
    for name, how in {**without, **CONTROLS}.items():
        plain = losses_of(rows, replace(MAIN[LORA], r=how.r))
        lines.append(line([name, *_compared(losses_of(rows, how), plain)]))
    steps = max(row["steps"] for row in found["parity"]["rows"])
    longer = [row for row in found["parity"]["rows"] if row["steps"] == steps]
    pair = (losses_of(longer, MAIN[name]) for name in (QLORA, LORA))
    lines.append(line([f"{steps} steps instead of {rows[0]['steps']}", *_compared(*pair)]))
    return "\n".join(lines)


def losses_of(rows: Sequence[Mapping[str, Any]], how: Tuning) -> dict[int, float]:
    """By seed."""
    return {row["seed"]: row["loss"] for row in rows if is_of(row, how)}


def _compared(losses: Mapping[int, float], reference: Mapping[int, float]) -> list[str]:
    """Mean loss, and the mean of its relative difference from `reference` on the same seeds."""
    if not losses:
        return ["–", "–"]
    apart = apart_of(losses, reference)
    beside = "" if losses == reference or not apart else f"{shown(mean_interval(apart), digits=2)} %"
    return [shown(mean_interval(list(losses.values()))), beside]


def _mark(losses: Mapping[int, float], reference: Mapping[int, float]) -> str:
    """Whether the mean difference is within the target."""
    apart = apart_of(losses, reference)
    return "" if not apart else " ✓" if abs(sum(apart) / len(apart)) <= 100 * TARGET else " ✗"


def apart_of(losses: Mapping[int, float], reference: Mapping[int, float]) -> list[float]:
    """In % of the reference, seed by seed."""
    return [100 * (loss / reference[seed] - 1) for seed, loss in losses.items() if seed in reference]


def _default_types(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of `data_types` as QLoRA stores a base, and of 16 bits."""
    rows = found["data_types"]["rows"] if "data_types" in found else []
    return [row for row in rows if row["block_size"] == 64 and (row["double_quant"] or row["quantization"] is None)]
