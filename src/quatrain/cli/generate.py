"""`quatrain generate`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from quatrain.cli.arguments import (
    Adapter,
    Device,
    Force,
    MaxNewTokens,
    Named,
    Quantization,
    System,
    TrustRemoteCode,
    in_a_folder,
    utf8_input,
)


def generate(
    named: Named,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts; without any, one a line from the input.", show_default=False)
    ] = None,
    adapter: Adapter = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that are answered at once.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write JSON lines {prompt, completion} to this file.",
            callback=in_a_folder,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    quantization: Quantization = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
) -> None:
    """Answer prompts in batches, greedily. For a conversation use `quatrain chat`."""
    from quatrain.data import render_prompt
    from quatrain.evaluation import generate_answers
    from quatrain.training.opening import open_model
    from quatrain.training.progress import ProgressDisplay

    with utf8_input():
        asked = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        "".join(asked).encode()
    model, tokenizer = open_model(
        named,
        adapter=adapter,
        quantization=quantization,
        device=device,
        force=force,
        trust_remote_code=trust_remote_code,
    )
    opening = [{"role": "system", "content": system}] if system else []
    ids = [render_prompt([*opening, {"role": "user", "content": p}], tokenizer) for p in asked]
    with ProgressDisplay(enabled=sys.stderr.isatty()) as display:
        answers = generate_answers(
            model,
            tokenizer,
            ids,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=lambda *at: display.work("answering", *at),
        )
    if out is None:
        for answer in answers:
            typer.echo(answer)
        return
    rows = [{"prompt": p, "completion": a} for p, a in zip(asked, answers, strict=True)]
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
