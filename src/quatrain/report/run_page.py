"""A run's page: what the run folder says, put into the template."""

from pathlib import Path
from typing import Any

from quatrain.report import html, run_content
from quatrain.report.heat_map import adapter_map
from quatrain.report.plan_bars import plan_bars
from quatrain.report.summary import read_run, summary_of
from quatrain.runlog import AdapterSaved, DataRead, Event, Noted, RunFolder, RunStarted


def write_report(folder: RunFolder) -> Path:
    """Write the run folder's ``report.html`` and return its path.

    Raises:
        CheckpointError: the folder holds no run, or its files can't be understood.
    """
    return html.write(render(*read_run(folder)), folder.report)


def render(config: dict[str, Any], events: list[Event]) -> str:
    """The page's HTML, from settings with dotted names and events."""
    summary = summary_of(config, events)
    starts = [e for e in events if isinstance(e, RunStarted)]
    saved = [e for e in events if isinstance(e, AdapterSaved)]
    return html.render(
        "run.html.jinja",
        summary=summary,
        start=starts[-1] if starts else None,
        tiles=run_content.tiles(summary),
        charts=run_content.charts(events),
        plan=plan_bars(events),
        adapter=adapter_map(saved[-1].norms) if saved else None,
        answers=run_content.answers(events),
        data_sets=run_content.data_sets(events),
        bad_rows=[row for e in events if isinstance(e, DataRead) for row in e.bad_first],
        notes=[e for e in events if isinstance(e, Noted)],
        config=config,
    )
