"""One contender of one case, in a process of its own; the runner starts it, and so can you, under a profiler.

python -m benchmarks.worker train_8b_4x2048 quatrain --models FOLDER --report FILE
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import Case, Contender, Setting, WrongResult
from benchmarks.machine import machine, versions
from benchmarks.registry import CASES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("contender")
    parser.add_argument("--models", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--report", type=Path, required=True, help="file for what was measured")
    parser.add_argument("--started", type=float, default=time.time(), help="Unix time at which this process started")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    arguments = parser.parse_args()
    case = CASES[arguments.case]
    contender = next(who for who in case.contenders if who.name == arguments.contender)
    device = torch.device("cuda", 0) if case.device == "cuda" else torch.device("cpu")
    setting = Setting(device=device, models=arguments.models, started=arguments.started, quick=arguments.quick)
    torch.seed()  # fresh tokens, weights and gradients in every process
    play(case, contender, setting, arguments.report)


def play(case: Case, contender: Contender, setting: Setting, report: Path) -> None:
    """Gate and measurement in their order. The report is written after each, so that a crash loses only what follows.

    It has `machine` and `versions`, then `gate` (errors) and `rows`, or `wrong` (what the gate or a check found).
    """
    told: dict[str, Any] = {"machine": machine(setting.device), "versions": versions(contender)}
    turn = case.contenders[contender]

    def gate() -> None:
        told["gate"] = turn.gate(setting) if turn.gate else {}

    def measure() -> None:
        told["rows"] = {label: asdict(row) for label, row in turn.measure(setting).items()}

    phases: list[Callable[[], None]] = [measure, gate] if turn.gate_last else [gate, measure]
    for phase in phases:
        try:
            phase()
        except WrongResult as wrong:
            told["wrong"] = str(wrong)
        report.write_text(json.dumps(told), encoding="utf-8")
        if "wrong" in told:
            return


if __name__ == "__main__":
    main()
