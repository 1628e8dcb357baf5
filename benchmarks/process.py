"""A contender's process: started with its own environment, and stopped with all its children at a time limit."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LONGEST_REASON = 200


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    status: Literal["finished", "failed", "timed out"]
    reason: str = ""


def run(command: Sequence[str], *, environment: Mapping[str, str], limit_s: float, log: Path) -> Ended:
    """Runs `command` with `environment` over this process' own, everything that it prints going to `log`.

    It gets a session of its own, so that at the limit, or when this process is interrupted, its children go with it.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment),
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return Ended("timed out", f"stopped after {limit_s:g} s")
        finally:
            _kill_session(process)
    if code == 0:
        return Ended("finished")
    if code < 0:
        return Ended("failed", f"ended by {signal.Signals(-code).name}")
    return Ended("failed", last_words(log) or f"exit status {code}")


def _kill_session(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_words(log: Path) -> str:
    """Why a Python process failed: the message of its last exception, or whatever it printed last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    told = [line for line in lines if line]
    errors = [line for line in told if _is_error(line)]
    last = (errors or told or [""])[-1]
    return last if len(last) <= LONGEST_REASON else last[: LONGEST_REASON - 1] + "…"


def _is_error(line: str) -> bool:
    """Does the line read ``package.SomeError: message``?"""
    name = line.partition(":")[0]
    return name.endswith(("Error", "Exception", "Exit", "Result")) and name.replace(".", "").isidentifier()
