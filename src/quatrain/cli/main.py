"""The command's frame: sub-commands, `--debug`, exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage or config, 130 interrupted with a checkpoint saved.
"""

import sys
from typing import Annotated

import typer

from quatrain import __version__
from quatrain.cli import chat, doctor, evaluate, generate, quantize, report, train
from quatrain.errors import ConfigError, QuatrainError

app = typer.Typer(
    name="quatrain",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Fine-tune large language models in four bits (QLoRA).\n\n"
        "First look at your machine with `quatrain doctor`, then write a config and run `quatrain train config.yaml`; "
        "talk to the result with `quatrain chat RUN`. `quatrain COMMAND --help` explains each step."
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
    global_options["debug"] = debug


global_options = {"debug": False}

app.command("train")(train.train)
app.command("chat")(chat.chat)
app.command("generate")(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command("quantize")(quantize.quantize)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except QuatrainError as error:
        if global_options["debug"]:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
