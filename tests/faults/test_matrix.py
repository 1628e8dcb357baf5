"""Every fault of the matrix meets what was promised for it, and the table in the docs says just that."""

import fnmatch
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quatrain.errors import QuatrainError
from tests.faults.case import Call, Case
from tests.faults.matrix import AREAS, MATRIX
from tests.faults.page import PAGE, page
from tests.faults.place import Place, Refused

SECONDS = 30
"""A case that takes longer hangs. Most take a few hundredths."""

MEMORY = 2 << 30
"""Bytes of address space that a case may add: a file's word about its sizes must not be believed before it is seen."""


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_fault(case: Case, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    call = case.make(place)
    before = contents(place.path)
    capfd.readouterr()
    with bounded_memory():
        if case.error is None:
            call()
            return
        said = refusal(case, call, capfd)
    assert said.startswith("error: ") and case.says in said
    assert "\n" not in said and "Traceback" not in said
    left = [name for name in changed(before, contents(place.path)) if not allowed(name, case)]
    assert not left


def refusal(case: Case, call: Call, capfd: pytest.CaptureFixture[str]) -> str:
    """What a user reads of a call that must be refused: all that a command printed, or what one would print."""
    try:
        call()
    except Refused as end:
        assert end.code == case.exit_code
        out, err = capfd.readouterr()
        assert not out
        return err.removesuffix("\n")
    except QuatrainError as error:
        assert type(error) is case.error
        return f"error: {error}"
    pytest.fail("it wasn't refused")


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """All that lies in a folder: size and time by name; a folder's own change when something comes and goes again."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    stats = {name: None if path.is_dir() else path.lstat() for name, path in found.items()}
    return {name: (stat.st_size, stat.st_mtime_ns) if stat else (0, 0) for name, stat in stats.items()}


def changed(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def allowed(name: str, case: Case) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in case.leaves)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Within it, this process gets no more than `MEMORY` beyond what it has: asking for it fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_each_of_many_cases_is_another_one() -> None:
    assert len(MATRIX) >= 120
    assert not [name for name, count in Counter(case.name for case in MATRIX).items() if count > 1]
    assert {case.area for case in MATRIX} <= {area.__name__.rpartition(".")[2] for area in AREAS}


def test_the_page_in_the_docs_is_the_matrix() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m tests.faults.page"
