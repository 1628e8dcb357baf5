"""`quatrain eval`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from quatrain.cli.arguments import Adapter, Device, MaxNewTokens, Named, Quantization


def evaluate(
    named: Named,
    data: Annotated[str, typer.Option(help="Held-out rows: a file, a folder or a hub name.")],
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="Our column = theirs, as in prompt=question.", show_default=False),
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
        Path | None, typer.Option(help="Write the numbers as JSON to this file.", show_default=False)
    ] = None,
    adapter: Adapter = None,
    quantization: Quantization = None,
    device: Device = None,
) -> None:
    """Measure a base or a run on held-out rows: loss and perplexity of the answers, and how many it gives right."""
    from quatrain.cli.opening import open_model
    from quatrain.data import DataConfig, Loader, prepare
    from quatrain.errors import ConfigError
    from quatrain.evaluation import TaskConfig, evaluate_loss, run_task
    from quatrain.evaluation.metrics import METRICS
    from quatrain.models.objective import Objective
    from quatrain.training.progress import ProgressDisplay

    if metric is not None and metric not in METRICS:
        raise ConfigError(f"`--metric` is one of {', '.join(METRICS)}, found {metric!r}")
    rows = DataConfig(path=data, fields=_field_map(fields), max_rows=max_rows)
    with ProgressDisplay() as display:
        model, tokenizer = open_model(named, adapter=adapter, quantization=quantization, device=device)
        prepared = prepare(
            rows, tokenizer, max_length=max_length, progress=lambda *at: display.work("reading rows", *at)
        )
        objective = Objective(model)
        loader = Loader(prepared.samples, max_length=max_length, batch_size=1, packing=objective.packs)
        result = evaluate_loss(objective, loader.epoch(0))
        numbers: dict[str, float] = {
            "loss": result.loss,
            "perplexity": result.perplexity,
            "supervised_tokens": result.supervised_tokens,
        }
        if metric is not None:
            task = TaskConfig(data=rows, metric=metric, max_new_tokens=max_new_tokens, batch_size=batch_size)  # pyright: ignore
            numbers[metric] = run_task(
                model, tokenizer, task, progress=lambda *at: display.work("answering", *at)
            ).score
    for name, value in numbers.items():
        typer.echo(f"{name}: {value:.6g}")
    if out is not None:
        out.write_text(json.dumps({"model": named, "data": data, **numbers}, indent=1) + "\n", encoding="utf-8")


def _field_map(fields: list[str] | None) -> dict[str, str] | None:
    from quatrain.errors import ConfigError

    pairs = [field.partition("=") for field in fields or []]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise ConfigError(f"`--field` looks like prompt=question, found {bad[0]!r}")
    return {ours: theirs for ours, _, theirs in pairs} or None
