"""Options of `quatrain eval`, those about rows and about the harness under headlines of their own."""

from pathlib import Path
from typing import Annotated

import typer

_ROWS, _HARNESS = "Rows of --data", "Tasks of lm-evaluation-harness"

Tasks = Annotated[
    str | None,
    typer.Option(
        metavar="TASK[=ROWS],...",
        help="What to measure; see above. Default: loss, of the rows that --data names.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Rows for tasks that name none: a file, a folder or a hub name.", show_default=False),
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="base|FOLDER",
        help="Also compare, question by question: with the base alone, or with a model's folder of answers.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for answers and results. What it holds already isn't asked again.")]
Groups = Annotated[bool, typer.Option("--groups", help="Also show each group's mean: MMLU's subjects.")]
MaxRows = Annotated[int | None, typer.Option(min=1, help="Use the first rows of each task only.", show_default=False)]
MaxLength = Annotated[int, typer.Option(min=2, help="For losses: longest row in tokens.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows that are answered at once.")]

Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--field", help="Our column = theirs, as in prompt=question.", show_default=False, rich_help_panel=_ROWS
    ),
]
RowFormat = Annotated[
    str,
    typer.Option(
        "--format", help="How a row reads: auto, messages, prompt_completion, alpaca, ...", rich_help_panel=_ROWS
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Part of a hub data set, or beginning of files' names.", show_default=False, rich_help_panel=_ROWS
    ),
]
Subset = Annotated[
    str | None,
    typer.Option(help="Configuration of a hub data set that has several.", show_default=False, rich_help_panel=_ROWS),
]

FewShot = Annotated[
    int | None,
    typer.Option(min=0, help="Solved questions before each.", show_default=False, rich_help_panel=_HARNESS),
]
ChatTemplate = Annotated[
    bool,
    typer.Option("--apply-chat-template", help="Ask as turns of a conversation.", rich_help_panel=_HARNESS),
]
