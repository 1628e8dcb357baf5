"""What `quatrain eval` measured, as a page: a section for each task, a line for each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quatrain.report.dots import DotPlot, Measured, dot_plot
from quatrain.report.results.reading import Figure, checked, is_share
from quatrain.report.sheet import Section, Sheet, Table, short_path
from quatrain.report.wording import number

_LEAD = "Lines show 95 % intervals over the examples."
_LEAD_OF_SEVERAL = (
    " Where models answered the same ones, their difference is surer than two intervals side by side make it look: "
    "quatrain eval --against compares example by example."
)
_MOST_LINES = 70
"""Groups that are drawn; MMLU has 57 subjects."""


@dataclass(frozen=True)
class GroupMean:
    """A group's mean, such as an MMLU subject's."""

    mean: float
    questions: int


@dataclass(frozen=True)
class TaskResult:
    """One task of one model."""

    task: str
    asked: str
    """Fingerprint of questions and settings: results that share it can be compared."""
    questions: int
    metrics: dict[str, Figure]
    source: str = ""
    groups: dict[str, dict[str, GroupMean]] = field(default_factory=dict)
    """By metric and name."""
    mean_of_groups: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ModelResult:
    """One model."""

    model: str
    tasks: dict[str, TaskResult]
    fingerprint: str = ""
    quantization: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


def evaluation_sheet(contents: Mapping[str, Any]) -> Sheet:
    """The page of result files by path.

    Raises:
        DataError: one isn't a file of results.
    """
    models = [checked(ModelResult, content, source) for source, content in contents.items()]
    names = _names(models)
    asked: dict[str, dict[str, TaskResult]] = {}
    for name, model in zip(names, models, strict=True):
        for task in model.tasks.values():
            asked.setdefault(task.asked, {})[name] = task
    several = len(models) > 1
    return Sheet(
        kind="Quatrain evaluation",
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} models",
        lead=_LEAD + _LEAD_OF_SEVERAL * several,
        sections=[_section(i, results) for i, results in enumerate(asked.values())],
        facts={} if several else _facts(models[0]),
        sources=[short_path(source) for source in contents],
    )


def _names(models: Sequence[ModelResult]) -> list[str]:
    """What models are called, with their fingerprints where they share a name."""
    called = [model.model.replace("\\", "/").rstrip("/").rpartition("/")[2] or model.model for model in models]
    return [
        f"{name} {model.fingerprint[:8]}" if called.count(name) > 1 else name
        for name, model in zip(called, models, strict=True)
    ]


def _facts(model: ModelResult) -> dict[str, str]:
    known = {"model": model.model, "fingerprint": model.fingerprint[:16], "stored in": model.quantization or ""}
    return {name: value for name, value in (known | model.versions).items() if value}


def _section(index: int, results: Mapping[str, TaskResult]) -> Section:
    first = next(iter(results.values()))
    metrics = list(dict.fromkeys(metric for result in results.values() for metric in result.metrics))
    plots = [_plot(f"task-{index}-{i}", metric, results) for i, metric in enumerate(metrics)]
    drawn, tables = _groups(index, metrics[:1], results)
    notes = [note for result in results.values() for note in result.notes]
    return Section(
        title=first.task,
        paragraphs=[
            " ".join([f"{first.questions:,} examples{f' from {first.source}' if first.source else ''}.", *notes])
        ],
        drawings=[plot for plot in [*plots, *drawn] if plot is not None],
        tables=tables,
    )


def _plot(id: str, metric: str, results: Mapping[str, TaskResult]) -> DotPlot | None:
    found = {name: result.metrics[metric] for name, result in results.items() if metric in result.metrics}
    share = is_share(metric, list(found.values()))
    rows = []
    for name, figure in found.items():
        shown = figure.percents if share else figure
        rows.append(Measured(label=name, mean=shown.mean, low=shown.low, high=shown.high, main=len(found) == 1))
    return dot_plot(id, metric.replace("_", " "), "%" if share else "", rows)


def _groups(
    index: int, metrics: Sequence[str], results: Mapping[str, TaskResult]
) -> tuple[list[DotPlot | None], list[Table]]:
    """The groups' means: drawn for a single model, in a table for several."""
    drawn, tables = [], []
    for metric in metrics:
        by_model = {name: result.groups[metric] for name, result in results.items() if result.groups.get(metric)}
        groups = list(dict.fromkeys(group for means in by_model.values() for group in means))
        if len(by_model) == 1 and len(groups) <= _MOST_LINES:
            (means,) = by_model.values()
            drawn.append(_groups_plot(f"groups-{index}", metric, means))
        elif groups:
            rows = [[g, *(number(m[g].mean) if g in m else "–" for m in by_model.values())] for g in groups]
            tables.append(Table([f"{metric.replace('_', ' ')} by group", *by_model], rows))
    return drawn, tables


def _groups_plot(id: str, metric: str, means: Mapping[str, GroupMean]) -> DotPlot | None:
    """Groups from the best to the worst."""
    share = is_share(metric, [Figure(group.mean, group.mean, group.mean) for group in means.values()])
    factor, unit = (100, " %") if share else (1, "")
    rows = [
        Measured(
            label=name.replace("_", " "),
            mean=factor * group.mean,
            text=f"{number(factor * group.mean)}{unit} of {group.questions:,}",
        )
        for name, group in sorted(means.items(), key=lambda item: -item[1].mean)
    ]
    return dot_plot(id, f"{metric.replace('_', ' ')} by group", unit.strip(), rows)
