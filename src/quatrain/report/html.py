"""From values to a page: the templates filled, and one file written.

A page works from a disk, in a mail and years later: styles and script are inlined and nothing is fetched. Answers,
prompts, settings and names are strings from strangers, so Jinja escapes every value, and a content security policy in
the page forbids all scripts but ours (by hash) and all network, should something slip through.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from quatrain.files import file_aside
from quatrain.report import wording

_TEMPLATES = "templates"
_FILTERS = ("number", "count", "score", "size", "duration", "step_time")


def render(template: str, **values: Any) -> str:
    """The HTML of a page.

    Args:
        template: a file in `templates/` that extends `frame.html.jinja`.
        values: what it shows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("quatrain.report", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(wording, name) for name in _FILTERS}
    script = _resource("page.js")
    return environment.get_template(template).render(
        **values,
        style=_resource("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write(page: str, path: Path) -> Path:
    """Put a page in place of one that is there, at no moment half of it. Returns its path."""
    with file_aside(path) as file:
        # A lone surrogate, which a model's broken bytes can leave in a string, has no UTF-8 form.
        file.write(page.encode(errors="replace"))
    return path


def _resource(name: str) -> str:
    return resources.files("quatrain.report").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")
