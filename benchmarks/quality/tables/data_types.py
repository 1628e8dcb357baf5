"""What four bits cost before any training, by type, by block size, with and without double quantization."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.cells import line
from benchmarks.quality.cell import Cell, Plan

TITLE = "Data types before training"
TYPES = ("nf4", "fp4", "int4")


def cells(plan: Plan) -> Iterator[Cell]:
    kinds: list[tuple[str | None, bool, int]] = [(None, False, 64)]
    kinds += [(t, d, b) for b in plan.scale.block_sizes for t in TYPES for d in (False, True)]
    for quantization, double_quant, block_size in kinds:
        settings = {
            "quantization": quantization,
            "double_quant": double_quant,
            "block_size": block_size,
            "held_out": plan.scale.held_out,
            "rows": plan.scale.rows,
            "seed": plan.scale.seeds[0],
        }
        yield Cell(table="data_types", measure="four_bits", settings=settings)


def markdown(found: Mapping[str, Any]) -> str:
    """A row for each type and block size; an arrow leads from scales in 32 bits to double quantization."""
    rows = found["data_types"]["rows"]
    head = ["type", "block", "bits of a linear", "GSM8K perplexity", "OASST perplexity", "error on normal weights"]
    lines = [line(head), line(["---"] * len(head))]
    lines += [line(["16-bit", "", *_figures([row])]) for row in rows if row["quantization"] is None]
    for size in sorted({row["block_size"] for row in rows}):
        for name in TYPES:
            pair = [row for row in rows if row["quantization"] == name and row["block_size"] == size]
            if pair:
                lines.append(line([name.upper(), str(size), *_figures(sorted(pair, key=lambda r: r["double_quant"]))]))
    return "\n".join(lines)


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = (("linear_bits", ".3f"), ("gsm8k_perplexity", ".3f"), ("oasst_perplexity", ".3f"), ("normal_error", ".2%"))
    return [" → ".join(format(row[name], form) for row in rows) for name, form in shown]
