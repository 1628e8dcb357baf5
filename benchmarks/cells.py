"""What stands in a cell of the table: figures with their units, targets with their direction."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_UNITS = {
    "allocated_gib": "GiB",
    "reserved_gib": "GiB held",
    "tokens_per_second": "tokens/s",
    "terabytes_per_second": "TB/s",
    "gigabytes_per_second": "GB/s",
    "teraflops": "TFLOP/s",
    "context_tokens": "tokens",
    "speed_percent": "%",
    "frobenius": "%",
    "nuclear": "% nuclear",
    "kl": "KL",
}
"""Of metrics that have one; perplexities and losses are plain numbers."""
_MORE_IS_BETTER = {
    "tokens_per_second",
    "terabytes_per_second",
    "gigabytes_per_second",
    "teraflops",
    "context_tokens",
    "speed_percent",
}


def amount(metric: str, value: Any) -> str:
    """A figure with its unit, in three or four digits; times as the median, in the unit that suits them."""
    if metric != "ms":
        return f"{_digits(value)} {_UNITS.get(metric, '')}".strip()
    median = value["median"] if isinstance(value, Mapping) else value
    if median >= 10_000:
        return f"{_digits(median / 1e3)} s"
    return f"{_digits(median)} ms" if median >= 1 else f"{_digits(median * 1e3)} µs"


def _digits(value: float) -> str:
    """Three digits, all of those before the point, and whole numbers that are meant as such without a point."""
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 2
    return f"{value:.{decimals}f}"


def figures(row: Mapping[str, Any], shows: Sequence[str]) -> str:
    return ", ".join(amount(metric, row[metric]) for metric in shows if metric in row)


def target(bounds: Mapping[str, float]) -> str:
    """Such as "≤ 450 ms, ≤ 33 GiB"."""
    signs = {metric: "≥" if metric in _MORE_IS_BETTER else "≤" for metric in bounds}
    return ", ".join(f"{signs[metric]} {amount(metric, bound)}" for metric, bound in bounds.items())


def reached(row: Mapping[str, Any], bounds: Mapping[str, float]) -> bool:
    """Does the row keep within every bound? The median counts."""
    found = {metric: row[metric]["median"] if metric == "ms" else row[metric] for metric in bounds}
    return all(found[m] >= bound if m in _MORE_IS_BETTER else found[m] <= bound for m, bound in bounds.items())


def state(entry: Mapping[str, Any]) -> str:
    """Instead of figures, where there are none."""
    short = {"skipped": "not installed", "wrong": "wrong result", "timed out": "timed out", "failed": "failed"}
    return "out of memory" if entry["reason"] == "out of memory" else short[entry["status"]]


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
