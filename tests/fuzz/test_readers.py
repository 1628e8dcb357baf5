"""A short run of each fuzzed reader; the long one is `python -m tests.fuzz`."""

import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import mutated
from tests.fuzz.reader import Reader
from tests.fuzz.readers import READERS

EXAMPLES = 40


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_good_files_are_read(reader: Reader, tmp_path: Path) -> None:
    for number, seed in enumerate(reader.seeds()):
        folder = tmp_path / str(number)
        folder.mkdir()
        reader.try_on(seed, folder)


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_spoiled_files_are_read_or_refused(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> None:
    seeds = reader.seeds()
    scratch = tmp_path_factory.mktemp(reader.name) / "case"

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(st.integers(0, 2**32 - 1))
    def one(seed: int) -> None:
        random = Random(seed)
        scratch.mkdir()
        try:
            reader.try_on(mutated(random.choice(seeds), random, random.choice(seeds)), scratch)
        finally:
            shutil.rmtree(scratch)

    one()
