"""What `quatrain eval` does between its options and its tables: open a model, measure it, and its base if asked to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from quatrain.adapters.peft_format import adapter_name
from quatrain.cli.arguments import BASE_NAME
from quatrain.errors import ConfigError
from quatrain.evaluation import Evaluation, Task, evaluate, read_evaluation
from quatrain.training.opening import open_adapters, resolve
from quatrain.training.progress import ProgressDisplay


@dataclass(frozen=True)
class Opening:
    """What a person named, and how it is to be opened."""

    named: str
    adapter: Path | None
    changes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What to call it: its folder, or a hub name."""
        called = _called(self.named)
        return called if self.adapter is None else f"{called}+{adapter_name(self.adapter)}"

    @property
    def base_name(self) -> str:
        """What to call its base."""
        return _called(resolve(self.named).base)


def measure(
    opening: Opening,
    tasks: Sequence[str | Task],
    against: str | None,
    out: Path,
    batch_size: int,
    display: ProgressDisplay,
) -> tuple[Evaluation, Evaluation | None]:
    """(the figures of what was named, those that they are to be compared with).

    Raises:
        ConfigError: `against` is the base, and so is what was named.
        Exit: it was interrupted; a person was told how to go on.
    """
    before = None if against in (None, BASE_NAME) else read_evaluation(against)
    chosen = {} if opening.adapter is None else {adapter_name(opening.adapter): opening.adapter}
    adapters, tokenizer = open_adapters(opening.named, chosen, own=not chosen, **opening.changes)
    if against == BASE_NAME and adapters.active_adapter is None:
        raise ConfigError(f"{opening.named} has no adapter, so its base is itself; compare a run or an adapter with it")

    def asked(name: str) -> Evaluation:
        return evaluate(
            adapters.model,
            tokenizer,
            tasks,
            folder=out,
            name=name,
            batch_size=batch_size,
            progress=lambda task, done, total: display.work(f"{name}, {task}", done, total),
        )

    try:
        after = asked(opening.name)
        if against == BASE_NAME:
            adapters.set_adapter(None)
            before = asked(opening.base_name)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the answers so far are in {out}, and the same command goes on from them", err=True)
        raise typer.Exit(130) from None
    return after, before


def _called(named: str) -> str:
    path = Path(named).expanduser()
    if not path.exists():
        return named
    # A run may be named by a link such as runs/latest; a file's own name says more than that of a hub's cached blob.
    return path.stem if path.is_file() else path.resolve().name
