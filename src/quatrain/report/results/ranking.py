"""What `quatrain judge` made of verdicts, as a page: systems from the best to the worst."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quatrain.report.dots import DotPlot, Measured, dot_plot
from quatrain.report.results.reading import Figure, checked
from quatrain.report.sheet import Section, Sheet, Table, short_path


@dataclass(frozen=True)
class Standing:
    """One system's place."""

    system: str
    elo: Figure
    davidson: Figure
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Ranking:
    """All of them, and what their ratings rest on."""

    standings: list[Standing]
    verdicts: int
    unparsed: int
    items: int
    orders: int
    samples: int
    seed: int
    judge: str = ""
    both_orders: str = ""
    notes: list[str] = field(default_factory=list)


def ranking_sheet(source: str, content: Any) -> Sheet:
    """The page of a ranking.

    Raises:
        DataError: it isn't one.
    """
    ranking = checked(Ranking, content, source)
    facts = {
        "verdicts": f"{ranking.verdicts:,}, {ranking.unparsed:,} of them unparsed",
        "questions": f"{ranking.items:,}",
        "both orders of a pair": ranking.both_orders,
        "orders for Elo": f"{ranking.orders:,}",
        "bootstrap samples": f"{ranking.samples:,}",
        "seed": str(ranking.seed),
    }
    by = f" of {ranking.judge}" if ranking.judge else ""
    return Sheet(
        kind="Quatrain ranking",
        title=f"{len(ranking.standings)} systems, judged in pairs",
        lead=f"{ranking.verdicts:,} verdicts{by} on {ranking.items:,} questions.",
        sections=[
            Section(title="Ratings", paragraphs=ranking.notes, drawings=_drawings(ranking.standings)),
            Section(title="Verdicts", tables=[_counts(ranking.standings)]),
        ],
        facts={name: value for name, value in facts.items() if value},
        sources=[short_path(source)],
    )


def _drawings(standings: Sequence[Standing]) -> list[DotPlot]:
    def plot(id: str, title: str, unit: str, figures: Sequence[Figure]) -> DotPlot | None:
        rows = [
            Measured(label=one.system, mean=figure.mean, low=figure.low, high=figure.high, text=rating(figure))
            for one, figure in zip(standings, figures, strict=True)
        ]
        return dot_plot(id, title, unit, rows)

    elo = plot(
        "elo", "Elo", "mean over orders of the verdicts, and where 95 % of the orders lie", [s.elo for s in standings]
    )
    davidson = plot(
        "davidson",
        "Davidson",
        "the likeliest strengths, ties counted, with 95 % intervals over questions",
        [s.davidson for s in standings],
    )
    return [drawing for drawing in (elo, davidson) if drawing is not None]


def rating(figure: Figure) -> str:
    """Such as "1,294 (1,208 to 1,378)"."""
    return f"{figure.mean:,.0f} ({figure.low:,.0f} to {figure.high:,.0f})"


def _counts(standings: Sequence[Standing]) -> Table:
    rows = [[s.system, f"{s.wins:,}", f"{s.ties:,}", f"{s.losses:,}"] for s in standings]
    return Table(["system", "won", "tied", "lost"], rows)
