"""What the tables of a study look like drawn: for each, the one or two pictures that show its claim."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from benchmarks.quality.intervals import mean_interval, shown
from benchmarks.quality.models import Tuning
from benchmarks.quality.tables import data_types, methods, optimizers, parity
from benchmarks.quality.tables.contests import (
    LORA,
    LORA_ATTENTION,
    MAIN,
    OTHERS,
    QLORA,
    QLORA_ATTENTION,
    is_of,
    usual,
)
from benchmarks.quality.tasks import TASKS
from quatrain.report.chart import Chart, chart
from quatrain.report.dots import DotPlot, Measured, dot_plot
from quatrain.report.series import Series

Drawing = Chart | DotPlot
Row = Mapping[str, Any]
Found = Mapping[str, Any]
_STYLES = ("main", "second", "third", "fourth")


def drawings_of(table: str, found: Found) -> list[Drawing]:
    """The pictures of a table, from the result files by name; none for a table that is only to be looked up."""
    made = _DRAWN[table](found) if table in _DRAWN else ()
    return [drawing for drawing in made if drawing is not None]


def elo_drawing(rows: Sequence[Row]) -> DotPlot | None:
    """Our ratings with the spread over orders; the paper's are small dots."""
    measured = [
        Measured(
            label=row["system"],
            mean=row["elo"],
            low=row["elo_low"],
            high=row["elo_high"],
            points=[row["paper"]],
            text=f"{row['elo']:,.0f}, paper {row['paper']:,}",
        )
        for row in rows
    ]
    return dot_plot("oasst-elo", "Elo", "mean over orders of the verdicts, and where 95 % of the orders lie", measured)


def _data_types(found: Found) -> Iterator[Drawing | None]:
    """What a type makes of its bits, in blocks of different sizes; the table has scales in 32 bits, too."""
    rows = found["data_types"]["rows"]
    for key, title, unit in (
        ("normal_error", "Error on normal weights", "‖ŵ − w‖ / ‖w‖ by bits of a linear, double-quantized"),
        ("gsm8k_perplexity", "Perplexity on GSM8K", "by bits of a linear"),
        ("oasst_perplexity", "Perplexity on OASST", "by bits of a linear"),
    ):
        series = []
        for name, style in zip(data_types.TYPES, _STYLES, strict=False):
            mine = [row for row in rows if row["quantization"] == name and row["double_quant"]]
            points = sorted((row["linear_bits"], row[key]) for row in mine)
            series.append(Series(name.upper(), style, points, markers=True))
        bits = [bits for one in series for bits, _ in one.points]
        sixteen = [row[key] for row in rows if row["quantization"] is None]
        if sixteen and bits:
            series.append(Series("16 bits", "level", [(min(bits), sixteen[0]), (max(bits), sixteen[0])]))
        yield chart(f"data-types-{key}", title, unit, series, from_zero=False, x_name="bits")


def _parity(found: Found) -> Iterator[Drawing | None]:
    """How far each lies from 16-bit LoRA, and what rank and layers do."""
    all_rows = usual(found["parity"]["rows"])
    for task in TASKS:
        rows = [row for row in all_rows if row["task"] == task]
        yield _apart(task, rows)
        yield _losses_plot(f"parity-{task}", f"{task.upper()}, held-out loss", MAIN, rows)
    for task in TASKS:
        yield _by_rank(task, [row for row in all_rows if row["task"] == task])


def _apart(task: str, rows: Sequence[Row]) -> DotPlot | None:
    lora = parity.losses_of(rows, MAIN[LORA])
    measured = []
    for name, how in MAIN.items():
        apart = parity.apart_of(parity.losses_of(rows, how), lora)
        if apart and name != LORA:
            measured.append(_measured(name, apart, f"{shown(mean_interval(apart), digits=2)} %", main=name == QLORA))
    title = f"{task.upper()}, held-out loss beside LoRA's on 16 bits"
    unit = f"% of it, seed by seed; the target is {100 * parity.TARGET:g} %"
    return dot_plot(f"apart-{task}", title, unit, measured, reference=0.0, reference_name=LORA)


def _by_rank(task: str, rows: Sequence[Row]) -> Chart | None:
    series = []
    for name, style in zip((LORA, QLORA, LORA_ATTENTION, QLORA_ATTENTION), _STYLES, strict=True):
        losses: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            if is_of(row, replace(MAIN[name], r=row["r"])):
                losses[row["r"]].append(row["loss"])
        points = [(float(r), fmean(values)) for r, values in sorted(losses.items())]
        series.append(Series(name, style, points, markers=True))
    return chart(f"rank-{task}", f"{task.upper()}, by rank", "held-out loss", series, from_zero=False, x_name="rank")


def _optimizers(found: Found) -> Iterator[Drawing | None]:
    """One curve, and what it costs."""
    rows, seed = found["optimizers"]["rows"], found["optimizers"]["seeds"][0]
    alone = {row["optimizer"]: row for row in rows if row["seed"] == seed}
    series = [
        Series(state, style, [(step, loss) for step, loss in enumerate(alone[state]["losses"], start=1)])
        for state, style in zip(optimizers.STATES, _STYLES, strict=False)
    ]
    yield chart("optimizer-curves", "Training loss", f"nats per token, seed {seed}", series, from_zero=False)
    losses = {state: [row["loss"] for row in rows if row["optimizer"] == state] for state in optimizers.STATES}
    measured = [_measured(state, values, shown(mean_interval(values))) for state, values in losses.items()]
    yield dot_plot("optimizer-loss", "Held-out loss", "", measured)
    for key, title, unit in (("step_ms", "Time of a step", "ms"), ("peak_gib", "Peak memory", "GiB")):
        costs = [Measured(label=state, mean=row[key]) for state, row in alone.items()]
        yield dot_plot(f"optimizer-{key}", title, unit, costs, from_zero=True)


def _methods(found: Found) -> Iterator[Drawing | None]:
    rows = found["methods"]["rows"]
    trained = [row for row in rows if row["held_out"]] + [
        row for row in usual(found["parity"]["rows"]) if row["task"] == "gsm8k" and not _is_other(row)
    ]
    yield _losses_plot("methods-loss", "GSM8K, held-out loss", methods.COMPARED, trained)
    timed = {
        name: row for name, how in methods.COMPARED.items() for row in rows if not row["held_out"] and is_of(row, how)
    }
    for key, title, unit in (("step_ms", "Time of a step", "ms"), ("peak_gib", "Peak memory", "GiB")):
        costs = [Measured(label=name, mean=row[key], main=name == QLORA) for name, row in timed.items()]
        yield dot_plot(f"methods-{key}", title, unit, costs, from_zero=True)


def _is_other(row: Row) -> bool:
    return any(is_of(row, how) for how in OTHERS.values())


def _losses_plot(id: str, title: str, everyone: Mapping[str, Tuning], rows: Sequence[Row]) -> DotPlot | None:
    """A line for each method; single seeds are small dots."""
    measured = []
    for name, how in everyone.items():
        losses = [row["loss"] for row in rows if is_of(row, how)]
        if losses:
            measured.append(_measured(name, losses, shown(mean_interval(losses)), main=name == QLORA))
    lora = [one.mean for one in measured if one.label == LORA]
    return dot_plot(id, title, "", measured, reference=lora[0] if lora else None, reference_name=LORA)


def _measured(name: str, values: Sequence[float], text: str, *, main: bool = False) -> Measured:
    interval = mean_interval(values)
    return Measured(
        label=name, mean=interval.mean, low=interval.low, high=interval.high, points=values, text=text, main=main
    )


_DRAWN: Mapping[str, Callable[[Found], Iterator[Drawing | None]]] = {
    "data_types": _data_types,
    "parity": _parity,
    "optimizers": _optimizers,
    "methods": _methods,
}
