"""`quatrain eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from quatrain.cli.eval_options import (
    Against,
    BatchSize,
    ChatTemplate,
    Data,
    FewShot,
    Fields,
    Groups,
    MaxLength,
    MaxRows,
    Out,
    RowFormat,
    Split,
    Subset,
    Tasks,
)
from quatrain.errors import ConfigError

if TYPE_CHECKING:
    from quatrain.data import DataConfig


def evaluate(
    named: Named,
    tasks: Tasks = None,
    data: Data = None,
    against: Against = None,
    out: Out = Path("evaluations"),
    groups: Groups = False,
    max_rows: MaxRows = None,
    max_length: MaxLength = 2048,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: BatchSize = 32,
    fields: Fields = None,
    row_format: RowFormat = "auto",
    split: Split = None,
    subset: Subset = None,
    num_fewshot: FewShot = None,
    apply_chat_template: ChatTemplate = False,
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
