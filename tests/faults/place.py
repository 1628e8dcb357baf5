"""The folder that a case works in, with good inputs to be spoiled."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quatrain import cli

GOOD_ROWS = "".join(json.dumps({"prompt": f"{a} + 1?", "completion": f"{a + 1} apples"}) + "\n" for a in range(8))


class Refused(Exception):
    """A command ended with an exit code other than 0."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Originals:
    """Good inputs, made once; cases get copies."""

    model: Path
    """A small Llama in several shards, with its tokenizer."""
    adapter: Path
    """An adapter of rank 2 for it, in PEFT's format."""
    run: Path
    """A finished run on it, of two steps with a checkpoint after each."""


@dataclass(frozen=True)
class Place:
    """An empty folder, and makers of good inputs in it."""

    path: Path
    originals: Originals
    patch: pytest.MonkeyPatch
    """For surroundings that aren't files: the environment, a disk, a clock."""

    def model(self, name: str = "model") -> Path:
        """A model's folder."""
        return Path(shutil.copytree(self.originals.model, self.path / name))

    def adapter(self, name: str = "adapter") -> Path:
        """An adapter's folder that fits `model`."""
        return Path(shutil.copytree(self.originals.adapter, self.path / name))

    def run(self, name: str = "run") -> Path:
        """A finished run's folder; its base is the original model."""
        return Path(shutil.copytree(self.originals.run, self.path / name))

    def file(self, name: str, content: str | bytes) -> Path:
        """A file with this content."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def rows(self, content: str | bytes = GOOD_ROWS, name: str = "rows.jsonl") -> Path:
        """A file of rows."""
        return self.file(name, content)

    def edit_json(self, path: Path, edit: Callable[[Any], Any]) -> None:
        """Change what a JSON file holds: `edit` changes the value in place, or returns another."""
        value = json.loads(path.read_text(encoding="utf-8"))
        edited = edit(value)
        path.write_text(json.dumps(value if edited is None else edited), encoding="utf-8")

    def command(self, *arguments: object) -> Callable[[], None]:
        """A call of `quatrain ARGUMENTS...` in this process; `Refused` when it doesn't end with 0."""

        def call() -> None:
            self.patch.setattr(sys, "argv", ["quatrain", *map(str, arguments)])
            try:
                cli.main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
                if code:
                    raise Refused(code) from None

        return call

    def train(self, *options: str, **settings: object) -> Callable[[], None]:
        """A call of `quatrain train` of one step into the folder `out`; settings replace good ones, None leaves out.

        A double underscore in a setting's name stands for the dot: ``lora__r=2``.
        """
        good = {
            "model": self.originals.model,
            "data": settings["data"] if "data" in settings else self.rows(name="good.jsonl"),
            "output_dir": self.path / "out",
            "max_steps": 1,
            "max_length": 64,
            "lora.r": 2,
            "device": "cpu",
            "compute_dtype": "float32",
        }
        given = good | {name.replace("__", "."): value for name, value in settings.items()}
        return self.command(
            "train", "--quiet", *options, *(f"{name}={value}" for name, value in given.items() if value is not None)
        )
