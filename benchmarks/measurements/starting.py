"""From the start of a process to steady training: imports, loading, compiling, first steps."""

import time
from dataclasses import asdict
from functools import partial

from benchmarks.case import HF, ONE_CORE, QUATRAIN, UNSLOTH, Case, Contender, Kind, Play, Row, Rows, Setting
from benchmarks.gate import GATE_MODELS, training_gate
from benchmarks.measurements.training import OPEN, timed_step
from benchmarks.work import OpenTraining, Work

EQUAL = 0.1
"""Steps are equal when they differ by at most this fraction."""
MOST_STEPS = 60

KIND = Kind(
    title="From the start of a process to steady steps",
    note=f"Until the end of the third step in a row that took the same time, within {EQUAL:.0%}. Files are in the page "
    "cache. Caches of compiled code are empty for a first start and left by an earlier one for a later start.",
)
START = "start"


def measure(open_training: OpenTraining, work: Work, setting: Setting) -> Rows:
    """Milliseconds since the process was started, and the steps that it took."""
    training = open_training(setting.models / work.model, work, setting.device)
    opened_ms = 1e3 * (time.time() - setting.started)
    steps: list[float] = []
    while not _are_equal(steps[-3:]):
        if len(steps) == MOST_STEPS:
            raise RuntimeError(f"no three equal steps in a row among {MOST_STEPS}; the last took {steps[-3:]} ms")
        steps.append(timed_step(training, work, setting.device))
    elapsed = 1e3 * (time.time() - setting.started)
    values = {"opened_ms": round(opened_ms, 1), "steps_ms": [round(step, 1) for step in steps]}
    return {START: Row(samples_ms=[elapsed], values=values)}


def _are_equal(steps: list[float]) -> bool:
    return len(steps) == 3 and max(steps) <= (1 + EQUAL) * min(steps)


def _contenders(work: Work) -> dict[Contender, Play]:
    """The gate comes last: whatever ran before would no longer have to start."""
    return {
        who: Play(partial(measure, OPEN[who], work), partial(training_gate, OPEN[who], work), gate_last=True)
        for who in (HF, UNSLOTH, QUATRAIN)
    }


FULL = Work(model="8b", samples=4, length=2048)
FOR_TESTS = Work(model="tiny", samples=2, length=64, r=4)

CASES = (
    Case(
        name="start_8b",
        kind=KIND,
        title="8B, 4×2048, first start",
        contenders=_contenders(FULL),
        device="cuda",
        options=asdict(FULL),
        models=("8b", GATE_MODELS["8b"]),
        target={START: {"ms": 15_000}},
        fresh_caches=True,
    ),
    Case(
        name="start_8b_again",
        kind=KIND,
        title="8B, 4×2048, later start",
        contenders=_contenders(FULL),
        device="cuda",
        options=asdict(FULL),
        models=("8b", GATE_MODELS["8b"]),
    ),
    Case(
        name="selftest_starting",
        kind=KIND,
        title="a tiny model on a CPU, to test the benchmarks themselves",
        contenders=_contenders(FOR_TESTS),
        device="cpu",
        options=asdict(FOR_TESTS),
        models=("tiny",),
        environment=ONE_CORE,
        fresh_caches=True,
        listed=False,
    ),
)
