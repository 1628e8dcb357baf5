"""Measure Quatrain beside its peers, record what was measured, and make the table from the records.

  python -m benchmarks                                   everything that this machine can run
  python -m benchmarks --list                            what there is
  python -m benchmarks train_8b_4x2048                   one case, all of its contenders
  python -m benchmarks 'train_1b_*' --contender quatrain us alone in some cases, beside what is recorded of the others
  python -m benchmarks --table                           only the table, from the result files

A contender whose library isn't installed is skipped and named; one that crashes, takes too long or computes something
else loses its own row, and the reason is recorded. Measure `ceilings` first on a new machine: floors come from it.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

from benchmarks.case import Case
from benchmarks.readme import write_readme
from benchmarks.registry import CASES, select
from benchmarks.results import RESULTS
from benchmarks.runner import Runner
from benchmarks.table import PAGE, write_table

CHECKPOINTS = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks"
_CHECKPOINTS_HELP = "where models of random weights are made, once, up to 20 GB (%(default)s)"


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        cases = select(arguments.cases)
    except LookupError as error:
        parser.error(str(error))
    known = {who.name for case in cases for who in case.contenders}
    if unknown := set(arguments.contender or ()) - known:
        parser.error(f"no contender of these cases is called {', '.join(sorted(unknown))}; there are {sorted(known)}")
    if arguments.list:
        _list(cases)
        return
    if not arguments.table:
        _run(cases, arguments)
    published = arguments.results.resolve() == RESULTS
    write_table(arguments.results, arguments.page or (PAGE if published else arguments.results / PAGE.name))
    if published:
        write_readme(RESULTS)


def _run(cases: list[Case], arguments: argparse.Namespace) -> None:
    runner = Runner(
        results=arguments.results,
        models=arguments.checkpoints.resolve(),
        quick=arguments.quick,
        limit_s=arguments.limit,
        say=partial(print, flush=True),
    )
    for case in cases:
        if case.device == "cuda" and not torch.cuda.is_available():
            print(f"{case.name}: skipped, it needs a CUDA device")
            continue
        print(f"{case.name}: {case.kind.title}; {case.title or 'all sizes'}", flush=True)
        runner.run_case(case, arguments.contender)


def _list(cases: list[Case]) -> None:
    for case in cases:
        print(f"{case.name:30} {case.device:5} {case.title or case.kind.title}")
        print(f"{'':36} contenders: {', '.join(who.name for who in case.contenders)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="Cases: " + ", ".join(name for name, case in CASES.items() if case.listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("cases", nargs="*", metavar="case", help="names or globs of cases; all without any")
    add("--contender", action="append", metavar="NAME", help="only this contender; may be given several times")
    add("--list", action="store_true", help="list the cases and their contenders")
    add("--table", action="store_true", help="only make the table")
    add("--quick", action="store_true", help="a third of the repetitions, for a look; the table says so")
    add("--limit", type=float, metavar="SECONDS", help="time limit of a contender, instead of the case's own")
    add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="folder of the result files (%(default)s)")
    add(
        "--page",
        type=Path,
        metavar="FILE",
        help="the table's file (docs/benchmarks.md; with another results folder, in it)",
    )
    add("--checkpoints", type=Path, default=CHECKPOINTS, metavar="FOLDER", help=_CHECKPOINTS_HELP)
    return parser


if __name__ == "__main__":
    main()
