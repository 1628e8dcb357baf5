"""Where a run keeps its things.

::

    runs/first/
      config.yaml      all settings, defaults included
      events.jsonl     what happened, one event a line
      adapter/         the trained adapter in PEFT's format
      checkpoints/     step-000200/ ... to resume from
      tensorboard/     the events' numbers for TensorBoard
      report.html      the page for a person
      suspects.jsonl   rows of steps that weren't taken, if there were any
      run.lock         which process writes here, while one does
"""

import re
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from quatrain.errors import CheckpointError
from quatrain.runlog.lock import locked
from quatrain.runlog.owner import Owner


@dataclass(frozen=True)
class RunFolder:
    """The names inside a run folder. Making one touches no disk; :meth:`create` does."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def suspects(self) -> Path:
        return self.path / "suspects.jsonl"

    def checkpoint(self, step: int) -> Path:
        """The folder of one checkpoint; its name sorts by step."""
        return self.checkpoints / f"step-{step:06d}"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint folder, ascending."""
        names = [p.name for p in self.checkpoints.iterdir()] if self.checkpoints.is_dir() else []
        return sorted(int(found[1]) for found in (re.fullmatch(r"step-(\d{6,})", name) for name in names) if found)

    def lock(self) -> AbstractContextManager[Owner | None]:
        """Keep every other run out: a context that gives the dead owner whose lock was taken over, if there was one.

        Raises:
            CheckpointError: on entering: another run holds the folder or may hold it, or nothing can be written there.
        """
        return locked(self.path / "run.lock")

    @property
    def holds_run(self) -> bool:
        return any(path.exists() for path in (self.config, self.events, self.adapter, self.checkpoints))

    def check(self, *, overwrite: bool = False, resume: bool = False) -> None:
        """Whether :meth:`create` would agree, without touching anything.

        Raises:
            CheckpointError: it already holds a run and neither was asked for, or there is nothing to resume.
        """
        if resume and not self.holds_run:
            raise CheckpointError(f"{self.path} holds no run to resume; start one there without resume.")
        if self.holds_run and not (overwrite or resume):
            raise CheckpointError(
                f"{self.path} already holds a run. Choose another output_dir, resume the run, or overwrite it."
            )

    def create(self, *, overwrite: bool = False, resume: bool = False) -> None:
        """Make the folder ready for a run: a new one, one in place of an old one, or the rest of an old one.

        Overwriting removes what a run keeps and nothing else, so a wrong ``output_dir`` costs no other files.

        Raises:
            CheckpointError: it already holds a run and neither was asked for, there is nothing to resume, or the folder
                can't be made.
        """
        self.check(overwrite=overwrite, resume=resume)
        if overwrite and not resume:
            files = (self.config, self.events, self.report, self.suspects)
            for path in (*files, self.adapter, self.checkpoints, self.tensorboard):
                _remove(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"output_dir {self.path} can't be made ({error.strerror}); choose another."
            ) from error


def _remove(path: Path) -> None:
    """Remove a file, a link (not what it points to), or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
