"""`quatrain generate`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from quatrain.cli.arguments import (
    Adapters,
    Device,
    Force,
    MaxNewTokens,
    Named,
    Quantization,
    System,
    TrustRemoteCode,
    in_a_folder,
    named_adapters,
    utf8_input,
)


def generate(
    named: Named,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts; without any, one a line from the input.", show_default=False)
    ] = None,
    adapter: Adapters = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that are answered at once.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write JSON lines {prompt, completion} to this file; of several adapters, also {adapter}.",
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
    """Answer prompts in batches, greedily. For a conversation use `quatrain chat`.

    With several adapters every prompt is answered with each of them.
    """
    from quatrain.data import render_prompt
    from quatrain.evaluation import generate_answers
    from quatrain.training.opening import open_adapters
    from quatrain.training.progress import ProgressDisplay

    with utf8_input():
        asked = prompts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
        "".join(asked).encode()
    chosen = named_adapters(adapter)
    adapters, tokenizer = open_adapters(
        named,
        chosen,
        own=not chosen,
        quantization=quantization,
        device=device,
        force=force,
        trust_remote_code=trust_remote_code,
    )
    opening = [{"role": "system", "content": system}] if system else []
    ids = [render_prompt([*opening, {"role": "user", "content": p}], tokenizer) for p in asked]
    answers: dict[str | None, list[str]] = {}
    with ProgressDisplay(enabled=sys.stderr.isatty()) as display:
        for name in chosen or (adapters.active_adapter,):
            adapters.set_adapter(name)
            answers[name] = generate_answers(
                adapters.model,
                tokenizer,
                ids,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                progress=lambda *at: display.work("answering", *at),
            )
    _give(asked, answers, out)


def _give(asked: list[str], answers: dict[str | None, list[str]], out: Path | None) -> None:
    """Print the answers or write them as JSON lines, prompt by prompt; whose they are is told of several."""
    several = len(answers) > 1
    rows = [
        {"prompt": prompt, **({"adapter": name} if several else {}), "completion": answers[name][number]}
        for number, prompt in enumerate(asked)
        for name in answers
    ]
    if out is not None:
        out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return
    for row in rows:
        typer.echo(f"{row['adapter']}: {row['completion']}" if several else row["completion"])
