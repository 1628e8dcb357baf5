"""A contender's process: how it ended and why, and that nothing of it is left."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.process import run


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_finished(log: Path):
    code = "import os, sys; print(os.environ['GIVEN']); print('error', file=sys.stderr)"
    ended = run(python(code), environment={"GIVEN": "here"}, limit_s=60, log=log)
    assert (ended.status, ended.reason) == ("finished", "")
    assert sorted(log.read_text().split()) == ["error", "here"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no such layer')", "ValueError: no such layer"),
        ("class OddError(Exception): pass\nOddError.__module__ = 'a.b'\nraise OddError('x')", "a.b.OddError: x"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import sys; print('told'); sys.exit(3)", "told"),
        ("import os; os._exit(4)", "exit status 4"),
        ("raise ValueError('x' * 1000)", f"ValueError: {'x' * 187}…"),
        ("import sys; print('ValueError: the reason\\nBye.', file=sys.stderr); sys.exit(1)", "ValueError: the reason"),
    ],
)
def test_failed(code: str, reason: str, log: Path):
    ended = run(python(code), environment={}, limit_s=60, log=log)
    assert (ended.status, ended.reason) == ("failed", reason)


def test_timed_out_with_all_its_children(log: Path):
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    began = time.monotonic()
    ended = run(python(code), environment={}, limit_s=2, log=log)
    assert (ended.status, ended.reason) == ("timed out", "stopped after 2 s")
    assert time.monotonic() - began < 30
    child = int(log.read_text())
    for _ in range(100):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail("the child of a stopped contender still runs")
