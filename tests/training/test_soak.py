"""Thousands of steps with evaluations, checkpoints and resumes: nothing grows."""

import pytest

from tests.training.soak import STEPS, Session, growth, soak

MOST = 0.02


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_memory_files_and_threads_stay_flat(tmp_path):
    sessions = soak(tmp_path, STEPS)
    found = growth(sessions)
    print({name: f"{value:+.2%}" for name, value in found.items()})
    # The time of a step is printed only: beside other programs even its processor time moves by more than this.
    assert all(found[name] <= MOST for name in ("memory", "files", "threads")), sessions


def test_growth_is_seen():
    """A leak of a megabyte, a file and a microsecond per session."""
    sessions = [
        Session(step=250 * n, memory=(500 + n) << 20, files=10 + n, threads=4, step_seconds=1e-3 + n * 1e-6)
        for n in range(1, 21)
    ]
    found = growth(sessions)
    assert found["memory"] > MOST and found["files"] > MOST and found["threads"] == 0
    assert 0 < found["step_seconds"] < MOST
