"""Tables of `quatrain judge`. Names of systems come out of files: they are shown as words, never as rich's markup."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from quatrain.plain import one_line

if TYPE_CHECKING:
    from quatrain.evaluation.judging import Agreement, Ranking
    from quatrain.evaluation.judging.both_orders import OrderFacts


def ranking_table(judge: str, ranking: "Ranking") -> Table:
    """Systems from the best to the worst."""
    table = Table(title=_word(f"by {judge}"), title_justify="left")
    table.add_column("system")
    for name in ("Elo", "95 % of orders", "Davidson", "95 % over questions", "wins", "ties", "losses"):
        table.add_column(name, justify="right")
    for standing in ranking.standings:
        table.add_row(
            _word(standing.system),
            f"{standing.elo.mean:.0f}\u00a0±\u00a0{standing.elo_error:.1f}",
            _range(standing.elo),
            f"{standing.davidson.mean:.0f}",
            _range(standing.davidson),
            *(f"{count:,}" for count in (standing.wins, standing.ties, standing.losses)),
        )
    return table


def ranking_facts(ranking: "Ranking") -> Iterator[str]:
    """What the ranking rests on, a line each."""
    merged = "one for both orders of a pair" if ranking.both_orders == "merged" else "one for each verdict"
    yield (
        f"{ranking.matches:,} matches ({merged}) from {ranking.verdicts:,} verdicts on {ranking.items:,} items; "
        f"{ranking.unparsed:,} unparsed"
    )
    yield from order_lines(ranking.order)
    yield (
        f"Elo: mean of {ranking.orders:,} orders, ± how well they fix it, and where 95 % of single orders end. "
        f"Davidson: maximum likelihood, and {ranking.samples:,} bootstrap samples of the items"
    )
    yield from (one_line(f"note: {note}") for note in ranking.notes)


def order_lines(order: "OrderFacts") -> Iterator[str]:
    """How much the judge looks at the order, where that can be said."""
    if order.consistency is not None:
        yield f"both orders of a pair agree in {order.consistency:.1%} of {order.pairs:,} pairs"
    if order.first_share is not None:
        yield f"the answer that stood first got {order.first_share:.1%} of {order.decided:,} decided verdicts"


def agreement_table(agreement: "Agreement") -> Table:
    """Each pair of judges."""
    table = Table()
    table.add_column("judges")
    for name in ("systems", "Kendall's τ", "Spearman's ρ"):
        table.add_column(name, justify="right")
    for pair in agreement.pairs:
        shown = (f"{value:.3f}" if value is not None else "–" for value in (pair.kendall_tau, pair.spearman_rho))
        table.add_row(_word(" and ".join(pair.judges)), str(pair.systems), *shown)
    return table


def _word(text: str) -> Text:
    return Text(one_line(text))


def _range(interval: Any) -> str:
    return f"{interval.low:.0f}\u00a0to\u00a0{interval.high:.0f}"
