"""What happened as a person wants to see it: numbers for the terminal, one HTML page for the browser.

A run's page is made from the run folder's config and events, never from the trainer, so it can be made while a run
trains, after it crashed, and from a folder that somebody sent.

``summary`` reads the folder; ``series`` and ``chart``, ``plan_bars``, ``heat_map`` and ``dots`` turn numbers into
drawings, ``wording`` writes them as a person would, and ``run_page`` fills the template with all of it. ``sheet`` is a
page of results of any kind, and ``results`` fills it from files of `quatrain eval` and `quatrain judge`.
"""

from quatrain.report.results import write_results
from quatrain.report.run_page import write_report
from quatrain.report.summary import Change, RunSummary, summarize

__all__ = ["Change", "RunSummary", "summarize", "write_report", "write_results"]
