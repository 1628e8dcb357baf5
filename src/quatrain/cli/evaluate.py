"""`quatrain eval`."""

import json
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
    in_a_folder,
)
from quatrain.errors import ConfigError

if TYPE_CHECKING:
    from quatrain.data import DataConfig
    from quatrain.evaluation import TaskConfig
    from quatrain.training.progress import ProgressDisplay


def evaluate(
    named: Named,
    data: Annotated[str, typer.Option(help="Held-out rows: a file, a folder or a hub name.")],
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="Our column = theirs, as in prompt=question.", show_default=False),
    ] = None,
    row_format: Annotated[
        str, typer.Option("--format", help="How a row reads: auto, messages, prompt_completion, alpaca, ...")
    ] = "auto",
    split: Annotated[
        str | None, typer.Option(help="Part of a hub data set, or beginning of files' names.", show_default=False)
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="Configuration of a hub data set that has several.", show_default=False)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Also answer each row: exact_match, json_match or number_match.", show_default=False),
    ] = None,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Use the first rows only.", show_default=False)] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Longest row in tokens.")] = 2048,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that are answered at once.")] = 32,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the numbers as JSON to this file.", callback=in_a_folder, dir_okay=False, show_default=False
        ),
    ] = None,
    adapter: Adapter = None,
    quantization: Quantization = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
) -> None:
    """Measure a base or a run on held-out rows: loss and perplexity of the answers, and how many it gives right."""
    from quatrain.data import DataConfig
    from quatrain.evaluation import TaskConfig
    from quatrain.training.opening import open_model
    from quatrain.training.progress import ProgressDisplay

    rows = DataConfig(
        path=data,
        format=row_format,  # pyright: ignore[reportArgumentType]
        split=split,
        subset=subset,
        fields=_field_map(fields),
        max_rows=max_rows,
    )
    task = None
    if metric is not None:
        task = TaskConfig(data=rows, metric=metric, max_new_tokens=max_new_tokens, batch_size=batch_size)  # pyright: ignore
    with ProgressDisplay() as display:
        model, tokenizer = open_model(
            named,
            adapter=adapter,
            quantization=quantization,
            device=device,
            force=force,
            trust_remote_code=trust_remote_code,
        )
        numbers = _losses(model, tokenizer, rows, max_length, display)
        if task is not None:
            numbers |= _score(model, tokenizer, task, display)
    for name, value in numbers.items():
        typer.echo(f"{name}: {value:.6g}")
    if out is not None:
        out.write_text(json.dumps({"model": named, "data": data, **numbers}, indent=1) + "\n", encoding="utf-8")


def _losses(
    model: Any, tokenizer: Any, rows: "DataConfig", max_length: int, display: "ProgressDisplay"
) -> dict[str, float]:
    """Loss and perplexity of the rows' learned tokens; what the rows are is shown before."""
    from quatrain.data import Loader, prepare
    from quatrain.evaluation import evaluate_loss
    from quatrain.models.objective import Objective

    prepared = prepare(
        rows,
        tokenizer,
        max_length=max_length,
        vocabulary=model.get_input_embeddings().num_embeddings,
        progress=lambda *at: display.work("reading rows", *at),
    )
    display.show(prepared.summary)
    objective = Objective(model)
    loader = Loader(prepared.samples, max_length=max_length, batch_size=1, packing=objective.packs)
    result = evaluate_loss(objective, loader.epoch(0))
    return {"loss": result.loss, "perplexity": result.perplexity, "supervised_tokens": result.supervised_tokens}


def _score(model: Any, tokenizer: Any, task: "TaskConfig", display: "ProgressDisplay") -> dict[str, float]:
    """The share of the rows that are answered right."""
    from quatrain.evaluation import run_task

    result = run_task(model, tokenizer, task, progress=lambda *at: display.work("answering", *at))
    return {result.metric: result.score}


def _field_map(fields: list[str] | None) -> dict[str, str] | None:
    pairs = [field.partition("=") for field in fields or []]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise ConfigError(f"`--field` looks like prompt=question, found {bad[0]!r}")
    return {ours: theirs for ours, _, theirs in pairs} or None
