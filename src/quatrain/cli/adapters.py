"""`quatrain adapters`: looking at adapters, and making new ones from others, without loading a base."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from quatrain.cli.arguments import Device, Force, adapter_folder
from quatrain.errors import ConfigError

app = typer.Typer(
    name="adapters",
    no_args_is_help=True,
    help="Look at adapters; add, subtract, extract and convert them. No base is loaded for it.",
)

Folder = Annotated[Path, typer.Argument(metavar="ADAPTER|RUN", help="An adapter's folder in PEFT's format, or a run.")]
Out = Annotated[Path, typer.Argument(help="New folder for the result, in PEFT's format.")]


@app.command()
def show(folder: Folder) -> None:
    """Show an adapter's rank, how much it changes in each layer, and what it was trained on.

    ‖ΔW‖ is the size of the change (Frobenius norm). "r for 99 %" is the smallest rank that keeps 99 % of its square:
    if that is well below r, `quatrain adapters convert` makes the adapter smaller for nearly nothing.
    """
    from rich.console import Console

    from quatrain.adapters.arithmetic import adapter_summary
    from quatrain.cli.adapter_tables import facts, kinds_table, norms_table

    console = Console(highlight=False)
    summary = adapter_summary(adapter_folder(folder))
    for line in facts(summary):
        console.print(line, markup=False, soft_wrap=True)
    console.print(kinds_table(summary))
    console.print(norms_table(summary))


@app.command()
def combine(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER[=WEIGHT]...",
            help="Adapter folders or runs, each with its weight, 1 if none is given; negative ones subtract.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the result, in PEFT's format.")],
    combination_type: Annotated[
        str,
        typer.Option(
            help="linear, cat, svd, ties, ties_svd, dare_linear, dare_ties, dare_linear_svd, dare_ties_svd, "
            "magnitude_prune or magnitude_prune_svd."
        ),
    ] = "svd",
    svd_rank: Annotated[
        int | None, typer.Option(help="Rank of the result, for svd. Default: the largest.", show_default=False)
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="Share of the elements to keep, for ties, dare and magnitude_prune.", show_default=False),
    ] = None,
    majority_sign_method: Annotated[str, typer.Option(help="For ties: total or frequency.")] = "total",
    seed: Annotated[int, typer.Option(help="Draws what dare drops.")] = 0,
    force: Force = False,
) -> None:
    """Make one adapter from several of the same base.

    Example: `quatrain adapters combine runs/math=0.7 runs/rude=-0.5 --out mixed --combination-type cat`

    *cat* is exact, and its rank is the sum of the ranks. *svd* is the nearest to that of a given rank. *linear* adds A
    and B by themselves: quick, and rough. *ties* drops small elements and those that the majority's sign contradicts,
    *dare* drops at random and enlarges the rest, *magnitude_prune* drops small ones. Names and results are those of
    PEFT's `add_weighted_adapter`. The result's distance from the plain weighted sum is printed.
    """
    from quatrain.adapters.arithmetic import combine_adapters
    from quatrain.training.progress import ProgressDisplay

    named = [_weighted(text) for text in adapters]
    with ProgressDisplay(enabled=sys.stderr.isatty()) as display:
        result = combine_adapters(
            [adapter_folder(folder) for folder, _ in named],
            [weight for _, weight in named],
            out,
            combination_type=combination_type,
            svd_rank=svd_rank,
            density=density,
            majority_sign_method=majority_sign_method,  # pyright: ignore[reportArgumentType]
            seed=seed,
            force=force,
            progress=lambda *at: display.work("combining", *at),
        )
    typer.echo(str(result))


@app.command()
def extract(
    base: Annotated[str, typer.Argument(help="A hub name, a model folder or a GGUF file.")],
    tuned: Annotated[str, typer.Argument(help="The same model after a full fine-tuning.")],
    out: Out,
    r: Annotated[int, typer.Option("--r", min=1, help="Rank in each layer that differs.")] = 64,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code that ships with the models.")] = False,
    device: Device = None,
) -> None:
    """Make an adapter from the difference of two models: what a full fine-tuning changed, at a low rank.

    Both are read tensor by tensor. How much of the difference the adapter holds is printed.
    """
    from quatrain.models.extracting import extract_adapter
    from quatrain.training.progress import ProgressDisplay

    with ProgressDisplay() as display:
        result = extract_adapter(
            base,
            tuned,
            out,
            r=r,
            device=device or "auto",
            trust_remote_code=trust_remote_code,
            progress=lambda done, total, name: display.work("comparing", done, total),
        )
    typer.echo(str(result))


@app.command()
def convert(
    folder: Folder,
    out: Out,
    r: Annotated[int, typer.Option("--r", min=1, help="The new rank, the same in all layers.")],
) -> None:
    """Change an adapter's rank: smaller ones keep what is largest (SVD), larger ones change nothing.

    For servers that take certain ranks only, or to make an adapter smaller; `quatrain adapters show` says how small it
    can be.
    """
    from quatrain.adapters.arithmetic import convert_adapter

    typer.echo(str(convert_adapter(adapter_folder(folder), out, r=r)))


def _weighted(text: str) -> tuple[Path, float]:
    """Folder and weight from "folder=0.5"; a folder that is called so comes first."""
    folder, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return Path(text), 1.0
    try:
        return Path(folder), float(weight)
    except ValueError as error:
        raise ConfigError(f"a weight is a number, as in {folder}=0.5; found {weight!r}") from error
