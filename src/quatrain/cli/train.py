"""`quatrain train`."""

import shlex
from typing import Annotated, NoReturn

import typer

from quatrain.errors import ConfigError
from quatrain.runlog import CheckpointSaved, Event


def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [key=value]...",
            help="A YAML file and settings that override it.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's newest checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in output_dir.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors and the result.")] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="List every setting with its default, and leave.")
    ] = False,
) -> None:
    """Fine-tune an adapter on your rows.

    The smallest config names a base and rows:

        model: HuggingFaceTB/SmolLM2-135M-Instruct

        data: rows.jsonl

    Rows may be chat `messages`, `prompt`/`completion`, alpaca, ShareGPT, OASST or plain `text`; other columns are named
    with `data.fields`. Settings can also be given on the command line: `quatrain train config.yaml lora.r=64
    learning_rate=1e-4`. `--settings` lists them all.

    The run folder (`output_dir`) then holds the adapter in PEFT's format, checkpoints, events for TensorBoard, and
    `report.html`. Ctrl-C saves a checkpoint and exits with 130; `--resume` goes on from there.
    While a run writes there, a second one in the same folder is refused and told where the first runs.
    """
    from quatrain.training import describe_settings, read_config
    from quatrain.training import train as run_training

    if settings:
        typer.echo(describe_settings())
        return
    arguments = arguments or []
    files = [a for a in arguments if "=" not in a]
    if len(files) > 1:
        raise ConfigError(f"one config file is read, found {len(files)}: {', '.join(files)}")
    if not arguments:
        raise ConfigError("give a config file or settings: quatrain train config.yaml, or model=… data=…")
    config = read_config(files[0] if files else None, [a for a in arguments if "=" in a])
    saved = _LastCheckpoint()
    try:
        result = run_training(
            None, None, config, resume=resume, overwrite=overwrite, progress=not quiet, sinks=[saved.note]
        )
    except KeyboardInterrupt:
        if saved.step is None and not resume:
            raise
        where = "before another checkpoint" if saved.step is None else f"at once, step {saved.step} is saved"
        _leave_interrupted(where, arguments)
    if result.status == "interrupted":
        _leave_interrupted(f"after step {result.step}", arguments)
    typer.echo(f"adapter: {result.folder.adapter}")
    typer.echo(f"report:  {result.folder.report}")
    typer.echo(f"talk to it: quatrain chat {shlex.quote(str(result.folder.path))}")


class _LastCheckpoint:
    """Remembers the step of the newest checkpoint that this call has written."""

    def __init__(self) -> None:
        self.step: int | None = None

    def note(self, event: Event) -> None:
        """A sink for the run's events."""
        if isinstance(event, CheckpointSaved):
            self.step = event.step


def _leave_interrupted(where: str, arguments: list[str]) -> NoReturn:
    typer.echo(f"interrupted {where}; go on with: quatrain train --resume {shlex.join(arguments)}")
    raise typer.Exit(130)
