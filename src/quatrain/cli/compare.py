"""`quatrain compare`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from quatrain.cli.arguments import in_a_folder

_MEASURED = "A model's folder that `quatrain eval` wrote."


def compare(
    before: Annotated[Path, typer.Argument(help=_MEASURED)],
    after: Annotated[Path, typer.Argument(help=_MEASURED)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the comparison as JSON to this file.", callback=in_a_folder, dir_okay=False, show_default=False
        ),
    ] = None,
) -> None:
    """Compare what two models answered, question by question, in the tasks that both were asked.

    Example: `quatrain compare evaluations/base-1a2b3c4d evaluations/first-5e6f7a8b`

    The interval of a difference is by the paired bootstrap: what makes a question hard is the same for both, so that
    small differences show. Where it holds 0, no difference is shown.
    """
    from quatrain.cli.evaluation_tables import print_differences
    from quatrain.evaluation import read_evaluation
    from quatrain.files import write_json

    first, second = read_evaluation(before), read_evaluation(after)
    differences = print_differences(second, first)
    if out is not None:
        told = [{**asdict(one), "verdict": one.verdict} for one in differences]
        result = {"before": first.subject, "after": second.subject, "differences": told}
        write_json(out, result)
