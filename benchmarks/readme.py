"""The README's figures, made from the result files and from nothing else."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import cells, results
from benchmarks.case import QUATRAIN, UNSLOTH

README = Path(__file__).resolve().parent.parent / "README.md"
_BLOCK = re.compile(r"(<!-- measured[^>]*-->\n).*?(<!-- /measured -->)", re.DOTALL)

STEPS = (
    ("train_8b_4x2048", "step", "8B, a step of 4 × 2048 tokens"),
    ("train_8b_paper", "step", "8B, QLoRA's recipe: r = 64, dropout, 16 rows of 512"),
    ("train_1b_1x1024", "step", "1B, a step of 1 × 1024 tokens"),
    ("stream_70b", "under 24 GiB", "70B under 24 GiB, a step of 4096 tokens, weights streamed"),
    ("stream_70b", "under 12 GiB", "70B under 12 GiB"),
    ("longest_8b", "under 24 GiB", "8B under 24 GiB, a step of one sample"),
)
"""Case, label, and what the README calls it."""
MERGED = (("written", "merged onto the base as trained (the default)"), ("onto the original", "onto the 16-bit base"))


def write_readme(folder: Path, page: Path = README) -> None:
    """Puts the tables between the marks in `page`."""
    tables = "\n\n".join(["\n".join(_steps(folder)), "\n".join(_merges(results.read(folder / "exports.json")))])
    text = page.read_text(encoding="utf-8")
    page.write_text(_BLOCK.sub(lambda marks: f"{marks[1]}{tables}\n{marks[2]}", text), encoding="utf-8")


def _steps(folder: Path) -> Iterator[str]:
    yield "| one H200, random weights | Unsloth | Quatrain |"
    yield "|---|---|---|"
    for case, label, title in STEPS:
        entries = results.read(folder / f"{case}.json")["contenders"]
        yield cells.line([title, *(_figures(entries.get(who.name), label) for who in (UNSLOTH, QUATRAIN))])


def _figures(entry: Mapping[str, Any] | None, label: str) -> str:
    """Tokens of a sample where they differ, time, and memory."""
    if entry is None:
        return ""
    row = entry["rows"][label]
    tokens = row.get("context_tokens")
    said = [f"{tokens:,} tokens"] if tokens else []
    return ", ".join([*said, *(cells.amount(metric, row[metric]) for metric in ("ms", "reserved_gib"))])


def _merges(exports: Mapping[str, Any]) -> Iterator[str]:
    found = exports["forms"]["safetensors"]
    yield "| SmolLM2-135M after GSM8K | loss | KL from base + adapter | max \\|Δ logit\\| |"
    yield "|---|---|---|---|"
    yield f"| base + adapter | {found['trained_loss']:.4f} | | |"
    for key, title in MERGED:
        row = found[key]
        yield f"| {title} | {row['loss']:.4f} | {row['kl']:.1e} | {row['max_logit_difference']:.2f} |"
