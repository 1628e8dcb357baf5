"""Measure the method's claims, record every cell, and make docs/evidence.md and .html from the records.

  python -m benchmarks.quality                        all tables
  python -m benchmarks.quality parity --seeds 1 2     one table, and what it needs
  python -m benchmarks.quality --seconds 540          stop in time; the next call goes on with what is left
  python -m benchmarks.quality --quick --results /tmp/q   a rehearsal: every kind of cell, two steps each
  python -m benchmarks.quality --table                only the pages, from the result files

GSM8K names the folder with train.jsonl and test.jsonl, OASST the file of message trees. The base is
SmolLM2-135M-Instruct unless --model names another one, in 16 bits.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import checkpoints
from benchmarks.__main__ import CHECKPOINTS
from benchmarks.case import QUATRAIN
from benchmarks.machine import machine, versions
from benchmarks.quality.cell import QUICK, Cell, Plan, Scale, Where
from benchmarks.quality.html_page import write_html
from benchmarks.quality.page import write_page
from benchmarks.quality.results import Book
from benchmarks.quality.study import Study
from benchmarks.quality.tables import NEEDS, TABLES
from benchmarks.quality.tables.learning_rates import chosen, outdated, tried_of
from benchmarks.quality.tasks import data_paths
from benchmarks.results import RESULTS
from quatrain.device import pick
from quatrain.errors import QuatrainError

FOLDER = RESULTS / "quality"
WORKERS_A_GPU = 4


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.tables) - TABLES.keys():
        parser.error(f"no table is called {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    if arguments.quick and arguments.results.resolve() == FOLDER.resolve():
        parser.error("a rehearsal's figures mean nothing: name a folder for them by --results")
    failed: list[str] = []
    if not arguments.table:
        try:
            failed = study(arguments)
        except QuatrainError as error:
            print(error, file=sys.stderr)
            return 1
    if arguments.results.resolve() == FOLDER.resolve():
        write_page(FOLDER)
        write_html(FOLDER)
    return 1 if failed else 0


def study(arguments: argparse.Namespace) -> list[str]:
    """Measures what isn't there yet. → the cells that failed, with their reasons."""
    began = time.time()
    names = _with_needed(arguments.tables or list(TABLES))
    scale, devices, data = _scale(arguments), _devices(arguments.device), data_paths()
    titles = {name: module.TITLE for name, module in TABLES.items()}
    book = Book(arguments.results, titles, machine(devices[0]), versions(QUATRAIN))
    slots = arguments.workers or (WORKERS_A_GPU if devices[0].type == "cuda" else 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (slots * len(devices)))))
    left = partial(_left, names, scale, book)
    with Study(book, devices, slots, partial(print, flush=True)) as running:
        deadline = began + arguments.seconds if arguments.seconds is not None else float("inf")
        where = Where(model=_model(arguments), data=data, device=devices[0], deadline=deadline)
        running.measure(left, where)
    print(f"{len(left())} cells are left, {len(running.failed)} failed; {time.time() - began:.0f} s", flush=True)
    return running.failed


def _left(names: Sequence[str], scale: Scale, book: Book) -> list[Cell]:
    """The cells to measure, as far as they are known; trainings at rates that have lost since are among them again."""
    rows = book.rows("learning_rates")
    tried = tried_of([row for row in rows if row["steps"] == scale.steps_on(row["task"])])
    plan = Plan(scale, chosen(tried, scale.grid), tried)

    def lost(row: Mapping[str, Any]) -> bool:
        return row["steps"] in (scale.steps_on(row["task"]), scale.longer) and outdated(row, plan.rates)

    for name in names:
        if NEEDS.get(name):
            book.drop(name, lost)
    return [cell for name in names for cell in TABLES[name].cells(plan) if not book.has(cell)]


def _devices(asked: str) -> list[torch.device]:
    """The device that was asked for; every GPU without that."""
    first = pick(asked)
    if asked == "auto" and first.type == "cuda":
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [first]


def _with_needed(names: Sequence[str]) -> list[str]:
    """The tables and those that they are made from, in the order of the page."""
    wanted = {*names, *(needed for name in names for needed in NEEDS.get(name, ()))}
    return [name for name in TABLES if name in wanted]


def _scale(arguments: argparse.Namespace) -> Scale:
    scale = QUICK if arguments.quick else Scale()
    given = {"seeds": arguments.seeds and tuple(arguments.seeds), "steps": arguments.steps}
    return replace(scale, **{name: value for name, value in given.items() if value})


def _model(arguments: argparse.Namespace) -> str:
    if arguments.model:
        return arguments.model
    checkpoints.ensure("smollm2", arguments.checkpoints)
    return str(arguments.checkpoints / "smollm2")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("tables", nargs="*", metavar="table", help=f"of {', '.join(TABLES)}; all without any")
    add("--results", type=Path, default=FOLDER, metavar="FOLDER", help="folder of the result files (%(default)s)")
    add("--seeds", type=int, nargs="+", metavar="N", help="seeds of every run (1 2 3)")
    add("--steps", type=int, metavar="N", help=f"optimizer steps on GSM8K ({Scale.steps})")
    add("--seconds", type=float, metavar="S", help="stop after so many seconds, and keep what is done")
    add("--workers", type=int, metavar="N", help="processes on each device (4 on a GPU, else 1)")
    add("--device", default="auto", help="cuda:0 or cpu, say; all GPUs if there are any")
    add("--model", metavar="NAME", help="another base: a hub name or a folder")
    add("--quick", action="store_true", help="a rehearsal; its figures mean nothing")
    add("--table", action="store_true", help="only write the tables")
    add("--checkpoints", type=Path, default=CHECKPOINTS, metavar="FOLDER", help="where the 16-bit base is made, once")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
