"""`quatrain report`."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    named: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|RESULTS...", help="A run folder, which may still be going; or files of results."),
    ],
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write a page: of a run, of evaluations, or of a ranking. It needs no network.

    A run's page (`report.html`) is made from the run's config and events only; its numbers are also printed.

        quatrain report runs/first

    What `quatrain eval` and `quatrain judge` wrote becomes a page beside the first file. Several evaluations become one
    page, with a line for each model.

        quatrain report evaluations/base-1a2b3c4d evaluations/run-5e6f7a8b
    """
    from quatrain.report import summarize, write_report, write_results
    from quatrain.report.results import RESULTS
    from quatrain.runlog import RunFolder

    if len(named) > 1 or named[0].is_file() or (named[0] / RESULTS).is_file():
        page = write_results(named)
    else:
        folder = RunFolder(named[0])
        page = write_report(folder)
        typer.echo(str(summarize(folder)))
    typer.echo(f"report: {page}")
    if show:
        typer.launch(page.resolve().as_uri())
