"""`docs/benchmarks.md`, made from the result files and from nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

Made by `python -m benchmarks --table` from the files in `benchmarks/results/`; `python -m benchmarks` measures them
anew. Every case pairs Quatrain with its peer in one run on one machine.
"""


def write_table(results: Path) -> None:
    """Render every result file that is there, in the order of their names."""
    parts = [_HEAD]
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        case = path.stem.removesuffix("_gpu")
        parts.append(_section(path, result, _RENDER[case](result)))
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _section(path: Path, result: dict[str, Any], body: str) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    return f"## {result['case']}\n\n{body}\n\nMeasured on: {machine}. File: `benchmarks/results/{path.name}`.\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cpu_step(result: dict[str, Any]) -> str:
    rows = [[name, f"{seconds:.3f} s"] for name, seconds in result["median_seconds"].items()]
    table = _table(["contender", "median step"], rows)
    ours, *peers = result["median_seconds"].values()
    faster, default = (peer / ours for peer in peers)
    return (
        f"{table}\n\nQuatrain is {default:.2f} times as fast as PEFT's default, {faster:.2f} times as its faster way."
    )


def _gsm8k(result: dict[str, Any]) -> str:
    rows = [[name, f"{value:.3f}"] for name, value in result["perplexity"].items()]
    table = _table(["model", "perplexity of held-out answers"], rows)
    worst, final = result["largest_relative_difference"], result["final_relative_difference"]
    return (
        f"{table}\n\nThe same training through bitsandbytes + PEFT: the loss of a step differs by at most {worst:.2%}, "
        f"that of the last tenth of the run by {final:.2%}."
    )


def _parity(result: dict[str, Any]) -> str:
    return f"The loss of a step differs from the peer's by at most {result['largest_relative_difference']:.4%}."


def _milliseconds(result: dict[str, Any]) -> str:
    rows = [[name, f"{value:.2f} ms"] for name, value in result["median_ms"].items()]
    return _table(["optimizer", "median step"], rows)


def _kernels(result: dict[str, Any]) -> str:
    rates = result["terabytes_per_second"]
    contestants = list(next(iter(rates.values())))
    rows = [[matrix, *(f"{rate[name]:.2f}" for name in contestants)] for matrix, rate in rates.items()]
    return "Terabytes a second, of the bytes that must be read and written:\n\n" + _table(
        ["matrix", *contestants], rows
    )


def _cpu_attention(result: dict[str, Any]) -> str:
    head = ["tokens", "Quatrain", "PyTorch", "errors of output, dq, dk, dv: Quatrain", "PyTorch"]
    rows = []
    for length, row in result["rows"].items():
        errors = [", ".join(map(str, row[name]["errors_out_q_k_v"])) for name in ("quatrain", "torch")]
        rows.append([length, f"{row['quatrain']['ms']} ms", f"{row['torch']['ms']} ms", *errors])
    return _table(head, rows)


_RENDER: dict[str, Callable[[dict[str, Any]], str]] = {
    "cpu_attention": _cpu_attention,
    "cpu_step": _cpu_step,
    "gsm8k": _gsm8k,
    "gsm8k_float32": _parity,
    "kernels": _kernels,
    "optimizer": _milliseconds,
}
