"""`quatrain quantize`."""

from pathlib import Path
from typing import Annotated

import typer

from quatrain.cli.arguments import Device
from quatrain.errors import ConfigError


def quantize(
    model: Annotated[str, typer.Argument(help="A hub name, a model folder or a GGUF file.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold a model yet.")],
    quantization: Annotated[str, typer.Option(help="nf4 or fp4 (readable by bitsandbytes), or int4.")] = "nf4",
    double_quant: Annotated[bool, typer.Option(help="Store the scales in 8 bits too.")] = True,
    block_size: Annotated[int, typer.Option(help="Weights that share a scale: 32 to 4096.")] = 64,
    quantize_head: Annotated[bool, typer.Option(help="Also quantize the output head.")] = False,
    quantize_embeddings: Annotated[bool, typer.Option(help="Also quantize the input embedding.")] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="Modules that stay in 16 bits, as a pattern.", show_default=False)
    ] = None,
    compute_dtype: Annotated[str, typer.Option(help="bfloat16, float16, float32 or auto.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.", show_default=False)] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code that ships with the base.")] = False,
    device: Device = None,
) -> None:
    """Store a model in four bits, once, for faster loading later.

    The folder loads in Quatrain, and with nf4 or fp4 in transformers with bitsandbytes. What stayed in 16 bits is
    listed with the reason and its bytes.
    """
    from quatrain.models import load_model, model_summary, save_quantized
    from quatrain.training.progress import ProgressDisplay

    if out.exists() and (not out.is_dir() or any(out.glob("*.safetensors"))):
        raise ConfigError(f"{out} must be a folder without weights, or not be there yet; choose another")
    with ProgressDisplay() as display:
        loaded, tokenizer = load_model(
            model,
            quantization=quantization,  # pyright: ignore[reportArgumentType]
            double_quant=double_quant,
            block_size=block_size,
            quantize_head=quantize_head,
            quantize_embeddings=quantize_embeddings,
            keep_in_16bit=tuple(keep or ()),
            compute_dtype=compute_dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            device=device or "auto",
            progress=lambda done, total, name: display.work("quantizing", done, total),
        )
        save_quantized(loaded, tokenizer, out)
    typer.echo(str(model_summary(loaded)))
    typer.echo(f"written to {out}")
