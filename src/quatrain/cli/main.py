"""The command's frame: sub-commands, `--debug`, exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage or config, 130 interrupted (`quatrain train` then says what was saved).
"""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from quatrain import __version__
from quatrain.cli import (
    adapters,
    chat,
    compare,
    doctor,
    evaluate,
    export,
    generate,
    judge,
    plan,
    quantize,
    report,
    train,
)
from quatrain.errors import ConfigError, QuatrainError


class Commands(TyperGroup):
    """The sub-commands, with every way in which one can end turned into a message and an exit code.

    This is done inside typer's own frame, which prints wrong usage well, but would let an interrupt pass in silence.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted; nothing was saved", file=sys.stderr)
            raise typer.Exit(130) from None
        except Exception as error:
            if ctx.params["debug"] or _is_typers(error):
                raise
            print(_message(error), file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None


def _is_typers(error: Exception) -> bool:
    """Whether typer has its own way with it: an exit, wrong usage (both carry a code), or a pipe that was closed."""
    return hasattr(error, "exit_code") or isinstance(error, BrokenPipeError)


def _message(error: Exception) -> str:
    """Our own errors say all; of any other, which may be the machine's or a bug, the kind helps to find the cause."""
    if isinstance(error, QuatrainError):
        return f"error: {error}"
    said = " ".join(str(error).split())
    return f"error: {type(error).__name__}: {said} (run again with --debug for the traceback: quatrain --debug …)"


app = typer.Typer(
    name="quatrain",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Fine-tune large language models in four bits (QLoRA).\n\n"
        "First look at your machine with `quatrain doctor`, then write a config and run `quatrain train config.yaml`; "
        "talk to the result with `quatrain chat RUN`, and hand it on with `quatrain export RUN`. "
        "`quatrain COMMAND --help` explains each step."
    ),
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"quatrain {__version__}")
        raise typer.Exit


app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("chat")(chat.chat)
app.command("generate")(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.add_typer(judge.app)
app.command("merge")(export.merge)
app.command("export")(export.export)
app.command("quantize")(quantize.quantize)
app.add_typer(adapters.app)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the console script."""
    app()
