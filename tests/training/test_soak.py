"""Thousands of steps with evaluations, checkpoints and resumes: nothing grows."""

import pytest

from tests.training.soak import STEPS, Session, growth, soak

MOST = 0.02


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_memory_files_threads_and_time_stay_flat(tmp_path):
    """Wants a machine that has nothing else to do: beside other programs even a step's processor time moves by more."""
    sessions = soak(tmp_path, STEPS)
    found = growth(sessions)
    print({name: f"{value:+.2%}" for name, value in found.items()})
    assert all(value <= MOST for value in found.values()), sessions


def test_growth_is_seen():
    """A leak of a megabyte, a file and a microsecond per session."""
    sessions = [
        Session(step=250 * n, memory=(500 + n) << 20, files=10 + n, threads=4, step_seconds=1e-3 + n * 1e-6)
        for n in range(1, 21)
    ]
    found = growth(sessions)
    assert found["memory"] > MOST and found["files"] > MOST and found["threads"] == 0
    assert 0 < found["step_seconds"] < MOST
