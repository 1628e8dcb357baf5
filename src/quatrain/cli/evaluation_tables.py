"""Tables of figures and of differences, for a terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from quatrain.cli.table_console import table_console
from quatrain.evaluation import Difference, Evaluation, TaskFigures, perplexity
from quatrain.evaluation.statistics import Interval

_ALL_EQUAL = "all are equal"
"""Instead of an interval: values that don't differ say nothing about how far their mean may be off."""


def print_figures(evaluation: Evaluation, *, groups: bool = False) -> None:
    """A row for each figure; with `groups`, also a table of their means."""
    table = _table("task", "questions", "metric", "figure", "95 % interval")
    for figures in evaluation.figures:
        for metric, figure, interval in _rows(figures):
            table.add_row(figures.task, f"{len(figures.answers):,}", metric, figure, interval)
    console = table_console()
    console.print(table)
    for figures in evaluation.figures:
        for note in figures.closing.notes:
            console.print(f"{figures.task}: {note}")
        if groups:
            _print_groups(console, figures)


def _rows(figures: TaskFigures) -> Iterator[tuple[str, str, str]]:
    """(metric, figure, interval) of all that a task gave."""
    for metric, interval in figures.metrics.items():
        yield metric, _figure(interval.mean), _range(interval)
        if metric == "loss":
            derived = perplexity(interval)
            yield "perplexity", _figure(derived.mean), _range(derived)
        mean = figures.mean_of_groups(metric)
        if mean is not None:
            yield f"{metric}, mean of {len(figures.groups(metric))} groups", _figure(mean), ""
    for name, value in figures.closing.figures.items():
        yield name, _figure(value), ""


def _print_groups(console: Console, figures: TaskFigures) -> None:
    metrics = [metric for metric in figures.metrics if figures.groups(metric)]
    if not metrics:
        return
    table = _table(figures.task, "questions", *metrics)
    for group, (_, questions) in figures.groups(metrics[0]).items():
        means = [figures.groups(metric)[group][0] for metric in metrics]
        table.add_row(group, f"{questions:,}", *map(_figure, means))
    console.print(table)


def print_differences(after: Evaluation, before: Evaluation) -> list[Difference]:
    """A row for each metric of each task that both have answered, with what the difference shows in words.

    Returns:
        The differences that are in the table.

    Raises:
        DataError: there is no such task.
    """
    table = _table("task", "metric", "before", "after", "difference", "95 % interval", "shown")
    differences = after.differences_from(before)
    for one in differences:
        change = one.change
        table.add_row(
            one.task,
            one.metric,
            _figure(one.before),
            _figure(one.after),
            f"{change.mean:+.4f}",
            _ALL_EQUAL if change.is_point else f"{change.low:+.4f} to {change.high:+.4f}",
            one.verdict,
        )
    console = table_console()
    console.print(f"before: {before.subject} ({before.folder}); after: {after.subject}", soft_wrap=True)
    console.print(table)
    return differences


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        left = name == names[0] or name in ("metric", "shown")
        table.add_column(name, justify="left" if left else "right")
    return table


def _figure(value: float) -> str:
    return f"{value:.4f}"


def _range(interval: Interval) -> str:
    return _ALL_EQUAL if interval.is_point else f"{_figure(interval.low)} to {_figure(interval.high)}"
