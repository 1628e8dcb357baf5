"""A run as a person wants to see it: numbers for the terminal, one HTML page for the browser.

Both are made from the run folder's config and events, never from the trainer, so they can be made while a run trains,
after it crashed, and from a folder that somebody sent.

``summary`` reads the folder, ``series`` and ``chart`` turn numbers into drawings, ``wording`` writes them as a person
would, and ``page`` fills the template with all of it.
"""

from quatrain.report.page import write_report
from quatrain.report.summary import Change, RunSummary, summarize

__all__ = ["Change", "RunSummary", "summarize", "write_report"]
