"""`quatrain judge`: answers of several models, a judge's verdicts on them, and the ranking that follows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatrain.cli import judge_answer, judge_compare
from quatrain.cli.arguments import in_a_folder
from quatrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from quatrain.evaluation.judging import Ranking, Verdict

app = typer.Typer(
    name="judge",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=(
        "Have models answer questions, and a judge say whose answers are better.\n\n"
        "Three steps on one folder, each of which goes on where it was stopped: `quatrain judge answer` collects "
        "answers, `quatrain judge compare` asks for verdicts on all pairs in both orders, `quatrain judge rank` makes "
        "ratings of them. `quatrain judge agree` compares judges."
    ),
)
app.command("answer")(judge_answer.answer)
app.command("compare")(judge_compare.compare)

Orders = Annotated[int, typer.Option(min=2, help="Random orders of the verdicts that Elo is averaged over.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the orders and the bootstrap.")]


@app.command()
def rank(
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|FILE", help="A comparison's folder, or a file of verdicts (CSV, JSON lines)."),
    ],
    judge: Annotated[
        str | None, typer.Option(help="Only this judge of the folder's. Default: each.", show_default=False)
    ] = None,
    both_orders: Annotated[
        str,
        typer.Option(help="separate: each verdict is a match. merged: a win needs both orders, the rest are ties."),
    ] = "separate",
    orders: Orders = 10_000,
    samples: Annotated[int, typer.Option(min=2, help="Bootstrap samples of the questions.")] = 1_000,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the ranking as JSON to this file. Default: `ranking-JUDGE.json` in a folder.",
            callback=in_a_folder,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Rank the systems by the verdicts: Elo as in the QLoRA paper, and Davidson's model beside it.

    A file of verdicts has the columns model_a, model_b, item and verdict (a, b, tie or unparsed), model_a being the
    system that the judge read first. Elo starts at 1000, moves by K = 32, and is the mean over random orders of the
    verdicts. Davidson's is Bradley and Terry's model with ties by maximum likelihood; its interval is a bootstrap over
    questions, and says how sure the ranking is.
    """
    from quatrain.evaluation.judging.folder import ComparisonFolder
    from quatrain.files import write_json

    judges = _judges([source])
    if judge is not None and judge not in judges:
        raise ConfigError(f"{source} has verdicts of {', '.join(judges)}, and none of {judge!r}")
    chosen = {judge: judges[judge]} if judge is not None else judges
    if out is not None and len(chosen) > 1:
        raise ConfigError(
            f"--out takes one ranking, and {source} has judges {', '.join(chosen)}; name one with --judge"
        )
    settings = {"both_orders": both_orders, "orders": orders, "samples": samples, "seed": seed}
    unranked = []
    for name, verdicts in chosen.items():
        try:
            found = _ranked(name, verdicts, settings)
        except DataError as error:
            unranked.append(f"{name}: {error}")
            continue
        path = out or (ComparisonFolder(source).ranking(name) if source.is_dir() else None)
        if path is not None:
            write_json(path, {"judge": name, **found.as_json()})
    if unranked:
        raise DataError("; ".join(unranked))


def _ranked(judge: str, verdicts: "list[Verdict]", settings: dict[str, Any]) -> "Ranking":
    """One judge's ranking, and a look at it."""
    from quatrain.cli.judge_tables import ranking_facts, ranking_table
    from quatrain.cli.table_console import table_console
    from quatrain.evaluation.judging import rank as rank_systems
    from quatrain.training.progress import ProgressDisplay

    with ProgressDisplay() as display:
        ranking = rank_systems(verdicts, **settings, progress=display.work)
    console = table_console()
    console.print(ranking_table(judge, ranking))
    for line in ranking_facts(ranking):
        console.print(line, soft_wrap=True)
    return ranking


@app.command()
def agree(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER|FILE...", help="A comparison's folder with several judges, or a file of each."),
    ],
    orders: Orders = 1_000,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the numbers as JSON to this file.", callback=in_a_folder, dir_okay=False, show_default=False
        ),
    ] = None,
) -> None:
    """Compare judges: do they rank systems alike (Kendall's τ, Spearman's ρ), do they decide alike (Fleiss' κ)?

    Files need the same names of systems and items. People count as a judge, too.
    """
    from dataclasses import asdict

    from quatrain.cli.judge_tables import agreement_table
    from quatrain.cli.table_console import table_console
    from quatrain.evaluation.judging import agreement
    from quatrain.files import write_json
    from quatrain.training.progress import ProgressDisplay

    with ProgressDisplay() as display:
        found = agreement(
            _judges(sources), orders=orders, seed=seed, progress=lambda *at: display.work("ranking by each judge", *at)
        )
    console = table_console()
    console.print(agreement_table(found))
    kappa = "undefined" if found.fleiss_kappa is None else f"{found.fleiss_kappa:.3f}"
    console.print(f"Fleiss' κ of all judges on {found.examples:,} examples: {kappa}")
    if out is not None:
        write_json(out, asdict(found))


def _judges(sources: list[Path]) -> "dict[str, list[Verdict]]":
    """Judge → verdicts, of folders and files; a file lends its name."""
    from quatrain.evaluation.judging import read_verdicts
    from quatrain.evaluation.judging.folder import ComparisonFolder

    found: dict[str, list[Verdict]] = {}
    for source in sources:
        judges = ComparisonFolder(source).verdicts() if source.is_dir() else {source.stem: read_verdicts(source)}
        if taken := found.keys() & judges.keys():
            raise ConfigError(f"every judge needs a name of its own, and {min(taken)!r} comes twice; rename a file")
        found |= judges
    return found
