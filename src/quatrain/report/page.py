"""The page: what the run folder says, put into the template.

The result is one file that works from a disk, in a mail and years later: styles and script are inlined and nothing is
fetched. Model answers, prompts and settings are strings from strangers, so Jinja escapes every value, and a content
security policy in the page forbids all scripts but ours (by hash) and all network, should something slip through.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from quatrain.files import file_aside
from quatrain.report import content, wording
from quatrain.report.summary import read_run, summary_of
from quatrain.runlog import DataRead, Event, Noted, RunFolder, RunStarted


def write_report(folder: RunFolder) -> Path:
    """Write the run folder's ``report.html`` and return its path.

    Raises:
        CheckpointError: the folder holds no run, or its files can't be understood.
    """
    page = render(*read_run(folder))
    with file_aside(folder.report) as file:
        # A lone surrogate, which a model's broken bytes can leave in a string, has no UTF-8 form.
        file.write(page.encode(errors="replace"))
    return folder.report


def render(config: dict[str, Any], events: list[Event]) -> str:
    """The page's HTML, from settings with dotted names and events."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("quatrain.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "count", "score", "size", "duration"):
        environment.filters[name] = getattr(wording, name)
    summary = summary_of(config, events)
    starts = [e for e in events if isinstance(e, RunStarted)]
    script = _resource("page.js")
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        start=starts[-1] if starts else None,
        tiles=content.tiles(summary),
        charts=content.charts(events),
        answers=content.answers(events),
        data_sets=content.data_sets(events),
        bad_rows=[row for e in events if isinstance(e, DataRead) for row in e.bad_first],
        notes=[e for e in events if isinstance(e, Noted)],
        config=config,
        style=_resource("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _resource(name: str) -> str:
    return resources.files("quatrain.report").joinpath(name).read_text(encoding="utf-8")
