"""`quatrain eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatrain.cli.arguments import (
    Adapter,
    Device,
    Force,
    MaxNewTokens,
    Named,
    Quantization,
    TrustRemoteCode,
    field_map,
)
from quatrain.errors import ConfigError

if TYPE_CHECKING:
    from quatrain.data import DataConfig

_ROWS, _HARNESS = "Rows of --data", "Tasks of lm-evaluation-harness"


def evaluate(
    named: Named,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="TASK[=ROWS],...",
            help="What to measure; see above. Default: loss, of the rows that --data names.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Rows for tasks that name none: a file, a folder or a hub name.", show_default=False),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="base|FOLDER",
            help="Also compare, question by question: with the base alone, or with a model's folder of answers.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for answers and results. What it holds already isn't asked again.")
    ] = Path("evaluations"),
    groups: Annotated[bool, typer.Option("--groups", help="Also show each group's mean: MMLU's subjects.")] = False,
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Use the first rows of each task only.", show_default=False)
    ] = None,
    max_length: Annotated[int, typer.Option(min=2, help="For losses: longest row in tokens.")] = 2048,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that are answered at once.")] = 32,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--field", help="Our column = theirs, as in prompt=question.", show_default=False, rich_help_panel=_ROWS
        ),
    ] = None,
    row_format: Annotated[
        str,
        typer.Option(
            "--format", help="How a row reads: auto, messages, prompt_completion, alpaca, ...", rich_help_panel=_ROWS
        ),
    ] = "auto",
    split: Annotated[
        str | None,
        typer.Option(
            help="Part of a hub data set, or beginning of files' names.", show_default=False, rich_help_panel=_ROWS
        ),
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(
            help="Configuration of a hub data set that has several.", show_default=False, rich_help_panel=_ROWS
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(min=0, help="Solved questions before each.", show_default=False, rich_help_panel=_HARNESS),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option("--apply-chat-template", help="Ask as turns of a conversation.", rich_help_panel=_HARNESS),
    ] = False,
    adapter: Adapter = None,
    quantization: Quantization = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
) -> None:
    """Measure a base or a run by tasks.

    Examples:

        quatrain eval runs/first --data held_out.jsonl

        quatrain eval runs/first --tasks mmlu,gsm8k --against base

        quatrain eval org/name --tasks choices=quiz.jsonl,lm_eval:hellaswag

    *mmlu* asks for letters in the prompt of QLoRA's paper; *choices* for the likeliest whole choice (rows with
    question, choices, answer); *loss* is loss and perplexity; *exact_match*, *number_match* and *json_match* score
    answers that the model writes; *gsm8k* is number_match on school mathematics. Other names are those of
    lm-evaluation-harness (`pip install 'quatrain[eval]'`). *mmlu* and *gsm8k* come from the hub if no ROWS are named.

    Every answer is kept as it comes: after a stop the same command goes on. Intervals hold the true mean in 95 % of all
    cases, by the bootstrap over questions.
    """
    from quatrain.cli.evaluation_tables import print_differences, print_figures
    from quatrain.cli.measuring import Opening, measure
    from quatrain.evaluation import TaskOptions, read_tasks
    from quatrain.training.progress import ProgressDisplay

    if tasks is None and data is None:
        raise ConfigError("say what to measure: --tasks mmlu,gsm8k, or --data rows.jsonl for their loss")
    with ProgressDisplay() as display:
        options = TaskOptions(
            data=_rows(data, row_format, split, subset, fields),
            max_rows=max_rows,
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            num_fewshot=num_fewshot,
            chat=apply_chat_template,
            show=display.show,
        )
        wanted = read_tasks(tasks or "loss", options)
        changes = {"quantization": quantization, "device": device, "trust_remote_code": trust_remote_code}
        opening = Opening(named, adapter, {"force": force, **changes})
        after, before = measure(opening, wanted, against, out, batch_size, display)
    print_figures(after, groups=groups)
    if before is not None:
        print_differences(after, before)
    typer.echo(f"answers and results: {after.folder}")


def _rows(
    path: str | None, row_format: Any, split: str | None, subset: str | None, fields: list[str] | None
) -> "DataConfig | None":
    from quatrain.data import DataConfig

    if path is None:
        return None
    return DataConfig(path=path, format=row_format, split=split, subset=subset, fields=field_map(fields))
