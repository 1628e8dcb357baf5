"""`quatrain report`."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder; the run may still be going.")],
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write the run's page (`report.html`) and print its numbers.

    The page is made from the run's config and events only. It needs no network.
    """
    from quatrain.report import summarize, write_report
    from quatrain.runlog import RunFolder

    folder = RunFolder(run)
    page = write_report(folder)
    typer.echo(str(summarize(folder)))
    typer.echo(f"report: {page}")
    if show:
        typer.launch(page.resolve().as_uri())
