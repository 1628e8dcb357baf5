"""Fuzzes one reader for a while, guided by coverage: `python -m tests.fuzz READER [SECONDS]` (needs atheris).

Findings don't stop it. Each kind of finding (what was raised, and the last place of ours that it came through) is
written once into `.cache/fuzz/READER/`, with its traceback beside; a crash, a hang of 30 s or 4 GiB of memory end it,
and libFuzzer leaves the input in the working directory. The last line says how many inputs were tried and how many
kinds of findings there were.
"""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

import atheris  # pyright: ignore[reportMissingModuleSource]

with atheris.instrument_imports(include=["quatrain"]):  # pyright: ignore[reportAttributeAccessIssue]
    from tests.fuzz.readers import READERS

from tests.fuzz.mutations import mutated
from tests.fuzz.reader import Reader

FOUND = Path(".cache/fuzz")


class Session:
    """One reader's inputs, counted, and its findings."""

    def __init__(self, reader: Reader, seconds: float):
        self.reader = reader
        self.ends = time.monotonic() + seconds
        self.executions = self.read = 0
        self.findings: set[str] = set()
        self.scratch = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.seeds = reader.seeds()

    def one(self, content: bytes) -> None:
        if time.monotonic() > self.ends:
            self.finish()
        folder = self.scratch / "case"
        folder.mkdir()
        self.executions += 1
        try:
            self.read += self.reader.try_on(content, folder)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a library in Rust isn't an Exception
            self.note(content, error)
        finally:
            shutil.rmtree(folder)

    def mutate(self, content: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.3:
            return atheris.Mutate(content, most)
        return mutated(content or random.choice(self.seeds), random, random.choice(self.seeds))[:most]

    def note(self, content: bytes, error: BaseException) -> None:
        ours = [
            f for f in traceback.extract_tb(error.__traceback__) if "quatrain" in f.filename or "fuzz" in f.filename
        ]
        kind = f"{type(error).__name__}-{Path(ours[-1].filename).stem}-{ours[-1].lineno}"
        if kind not in self.findings:
            self.findings.add(kind)
            folder = FOUND / self.reader.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / kind).write_bytes(content)
            (folder / f"{kind}.txt").write_text("".join(traceback.format_exception(error)), errors="replace")

    def finish(self) -> None:
        shutil.rmtree(self.scratch)
        print(
            f"{self.reader.name}: {self.executions:,} inputs, {self.read:,} of them read, "
            f"{len(self.findings)} kinds of findings {sorted(self.findings)}",
            flush=True,
        )
        os._exit(1 if self.findings else 0)


def main() -> None:
    name, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 600.0
    logging.disable(logging.CRITICAL)
    session = Session(READERS[name], seconds)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(session.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        options = ["-timeout=30", "-rss_limit_mb=4096", "-max_len=65536", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, corpus], session.one, custom_mutator=session.mutate)
        with contextlib.suppress(KeyboardInterrupt):
            atheris.Fuzz()


if __name__ == "__main__":
    main()
