"""Options of `quatrain judge compare`, those of each kind of judge under a headline of their own."""

from pathlib import Path
from typing import Annotated

import typer

_ENDPOINT = "A judge behind an endpoint"
_LOCAL = "A judge that is loaded here"

JudgeName = Annotated[
    str, typer.Option(metavar="[NAME=]MODEL", help="The model's name at the endpoint; or a local MODEL or RUN.")
]
Against = Annotated[
    str | None, typer.Option(help="Judge only pairs with this model. Default: all pairs.", show_default=False)
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        help="Jinja file in place of the judge's prompt, with {{ question }}, {{ answer_a }} and {{ answer_b }}.",
        dir_okay=False,
        show_default=False,
    ),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be asked, and ask nothing.")]

Endpoint = Annotated[
    str | None,
    typer.Option(
        help="Address of an OpenAI-compatible service, up to and with /v1.",
        show_default=False,
        rich_help_panel=_ENDPOINT,
    ),
]
KeyVariable = Annotated[str, typer.Option(help="Environment variable that holds the key.", rich_help_panel=_ENDPOINT)]
NoKey = Annotated[bool, typer.Option("--no-api-key", help="The endpoint wants no key.", rich_help_panel=_ENDPOINT)]
JudgeTemperature = Annotated[
    float, typer.Option(min=0.0, help="0 takes the likeliest reply.", rich_help_panel=_ENDPOINT)
]
RequestParameters = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=JSON",
        help="A parameter of each request; null leaves ours out, as in max_tokens=null.",
        show_default=False,
        rich_help_panel=_ENDPOINT,
    ),
]
Timeout = Annotated[
    float, typer.Option(help="Seconds of silence before an attempt is given up.", rich_help_panel=_ENDPOINT)
]
Attempts = Annotated[int, typer.Option(min=1, help="For each verdict.", rich_help_panel=_ENDPOINT)]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests at once.", rich_help_panel=_ENDPOINT)]
InputPrice = Annotated[float, typer.Option(min=0.0, help="Of a million tokens of prompts.", rich_help_panel=_ENDPOINT)]
OutputPrice = Annotated[float, typer.Option(min=0.0, help="Of a million tokens of replies.", rich_help_panel=_ENDPOINT)]
Yes = Annotated[
    bool,
    typer.Option("--yes", help="Don't wait for a yes before the endpoint is asked.", rich_help_panel=_ENDPOINT),
]

Verdicts = Annotated[
    str,
    typer.Option(
        help="likelihood (of A, B and C as the next token) or written (reasons first, slower).", rich_help_panel=_LOCAL
    ),
]
Batch = Annotated[
    int, typer.Option("--batch-size", min=1, help="Replies that are written at once.", rich_help_panel=_LOCAL)
]
