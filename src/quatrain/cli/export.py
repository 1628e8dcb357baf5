"""`quatrain merge` and `quatrain export`."""

from pathlib import Path
from typing import Annotated

import typer

from quatrain.cli.arguments import Device, Force

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the folder of an adapter in PEFT's format.")]
Out = Annotated[Path, typer.Argument(help="Folder to make; it must not hold anything yet.", show_default=False)]
Original = Annotated[
    str | None,
    typer.Option(help="The 16-bit checkpoint of a base that is stored in four bits.", show_default=False),
]
Dtype = Annotated[str, typer.Option(help="bfloat16, float16, or auto: what the base is stored in.")]
Measure = Annotated[bool, typer.Option(help="Compare the result with base + adapter on held-out rows.")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Largest KL from base + adapter, in nats, that passes. Default: 0.02, or 0.5 onto the original base.",
        show_default=False,
    ),
]
MaxShardSize = Annotated[str, typer.Option(help="Largest file of a 16-bit checkpoint; host memory is about as much.")]


def merge(
    run: Run,
    out: Out,
    base: Annotated[
        str,
        typer.Option(help="dequantized: the base as training saw it through four bits. original: its 16-bit weights."),
    ] = "dequantized",
    original: Original = None,
    dtype: Dtype = "auto",
    measure: Measure = True,
    tolerance: Tolerance = None,
    max_shard_size: MaxShardSize = "5GB",
    device: Device = None,
    force: Force = False,
) -> None:
    """Fold a run's adapter into its base: one 16-bit checkpoint.

    transformers and vLLM load it without Quatrain. It is written aside, read back, and compared with base + adapter on
    the run's held-out rows (loss, and KL of the logits); a merge onto the other base is measured beside it. What is
    further off than the tolerance fails, and nothing is left behind.
    """
    export(
        run,
        out,
        to="safetensors",
        base=base,
        original=original,
        dtype=dtype,
        measure=measure,
        tolerance=tolerance,
        max_shard_size=max_shard_size,
        device=device,
        force=force,
    )


def export(
    run: Run,
    out: Out,
    to: Annotated[
        str,
        typer.Option(help="safetensors, bnb-4bit, gguf, ollama, or lora-gguf (the adapter alone).", show_default=False),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="dequantized or original. Default: original for bnb-4bit, else dequantized.", show_default=False
        ),
    ] = None,
    original: Original = None,
    dtype: Dtype = "auto",
    gguf_type: Annotated[str, typer.Option(help="Matrices of a GGUF file: f16, bf16 or q8_0.")] = "f16",
    measure: Measure = True,
    tolerance: Tolerance = None,
    least_survival: Annotated[
        float, typer.Option(help="Smallest share of the adapter's change that four bits may leave.")
    ] = 0.5,
    max_shard_size: MaxShardSize = "5GB",
    device: Device = None,
    force: Force = False,
) -> None:
    """Write a run in the form that something else serves.

    - `safetensors`: a 16-bit checkpoint for transformers, vLLM, SGLang (the same as `quatrain merge`)

    - `bnb-4bit`: four bits for transformers with bitsandbytes; says how much of the adapter's change survives them

    - `gguf`: one file for llama.cpp, with tokenizer and chat template

    - `ollama`: that file and a Modelfile: `ollama create NAME -f OUT/Modelfile`

    - `lora-gguf`: the adapter alone, for `llama-cli --lora`

    Each is read back and compared with base + adapter before it appears under its name. Name the target in the run's
    config (`export_to: gguf`), and settings that it can't carry are refused before training.
    """
    from quatrain.exports import export as run_export
    from quatrain.training.progress import ProgressDisplay

    with ProgressDisplay() as display:
        result = run_export(
            run,
            out,
            to=to,  # pyright: ignore[reportArgumentType]
            base=base,  # pyright: ignore[reportArgumentType]
            original=original,
            dtype=dtype,
            gguf_type=gguf_type,
            measure=measure,
            tolerance=tolerance,
            least_survival=least_survival,
            max_shard_size=max_shard_size,
            device=device or "auto",
            force=force,
            progress=display.work,
        )
    typer.echo(str(result))
