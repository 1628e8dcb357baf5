"""What four bits cost before any training, by type, by block size, with and without double quantization."""

from collections.abc import Iterator, Mapping
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
    lines = [
        line(["type", "block", "scales", "bits of a linear", "GSM8K", "OASST", "error on normal weights"]),
        line(["---"] * 7),
    ]
    rows = found["data_types"]["rows"]
    for row in sorted(rows, key=lambda r: (r["quantization"] is not None, r["block_size"], _order(r))):
        sixteen = row["quantization"] is None
        lines.append(
            line(
                [
                    "16-bit" if sixteen else row["quantization"].upper(),
                    "" if sixteen else str(row["block_size"]),
                    "" if sixteen else ("8-bit" if row["double_quant"] else "32-bit"),
                    f"{row['linear_bits']:.3f}",
                    f"{row['gsm8k_perplexity']:.3f}",
                    f"{row['oasst_perplexity']:.3f}",
                    f"{row['normal_error']:.2%}",
                ]
            )
        )
    return "\n".join(lines)


def _order(row: Mapping[str, Any]) -> tuple[int, bool]:
    return (TYPES.index(row["quantization"]) if row["quantization"] else -1, row["double_quant"])
