"""Arguments that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Named = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|RUN", help="A run folder, an adapter folder, a hub name, a model folder or a GGUF file."
    ),
]
Adapter = Annotated[
    Path | None, typer.Option(help="Folder of an adapter in PEFT's format to put on the base.", show_default=False)
]
Quantization = Annotated[
    str | None,
    typer.Option(
        help="nf4, fp4, int4, or none for 16 bits. Default: as the run was trained, nf4 for a base.", show_default=False
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.", show_default=False)]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token; 0.7 varies.")]
System = Annotated[str | None, typer.Option(help="A system message to begin with.", show_default=False)]
