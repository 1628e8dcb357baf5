"""`quatrain plan`."""

from pathlib import Path
from typing import Annotated

import typer

from quatrain.errors import ConfigError


def plan(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG.yaml|MODEL [key=value]...",
            help="What `train` takes, or a base: a hub name, a folder, a GGUF file or a config.json.",
            show_default=False,
        ),
    ],
    gpu: Annotated[
        str | None,
        typer.Option(help="A card that needn't be there: rtx4090, a100-40gb, h100, …", show_default=False),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="The device's budget, such as 24GB. Default: all of it.", show_default=False)
    ] = None,
    host_memory: Annotated[
        str | None,
        typer.Option(
            help="What may be pinned on the host. Default: two thirds of what is free here.", show_default=False
        ),
    ] = None,
) -> None:
    """Show what training will take, in bytes and seconds, before anything is loaded.

    From the base's config.json and the run's settings alone: weights, adapters, optimizer state, activations, buffers;
    the peak while loading, training, evaluating and saving; the time of a step. It chooses the fastest way that fits
    the budget, says why, what every choice would cost, and what a little more memory would bring.

        quatrain plan meta-llama/Llama-3.1-8B --gpu rtx4090

        quatrain plan config.yaml memory=24GB lora.r=64

    `quatrain train` with `memory` set carries out just this plan. A budget that is too small is refused with the least
    that would do and the nearest change that would fit.
    """
    from quatrain.training import plan as make
    from quatrain.training import read_config

    settings = [argument for argument in arguments if "=" in argument]
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise ConfigError(f"one config file or base is planned for, found {len(files)}: {', '.join(files)}")
    # A plan reads no rows, so none need be named.
    if files and Path(files[0]).suffix in (".yaml", ".yml"):
        config = read_config(files[0], settings, defaults={"data": "none"})
    else:
        config = read_config(None, [*(f"model={name}" for name in files), *settings], defaults={"data": "none"})
    typer.echo(str(make(config, gpu=gpu, memory=memory, host_memory=host_memory)))
