"""A result says which commit was measured, where that can be known."""

import subprocess
from pathlib import Path

from benchmarks.machine import commit_of


def test_a_checkouts_commit_is_told(tmp_path: Path):
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    assert commit_of(tmp_path) == {}
    git("init")
    assert commit_of(tmp_path) == {}, "there is no commit yet"
    git("commit", "--allow-empty", "-m", "first")
    (told,) = commit_of(tmp_path).values()
    assert len(told) == 40 and commit_of(tmp_path / "elsewhere") == {}
