"""Judged comparisons: which of several models answers better, by the verdicts of a judge.

The way of a comparison: :mod:`verdicts` says what a judge's word looks like in a file and :mod:`both_orders` what the
two orders of a pair say together; :mod:`rating` makes numbers of them, :mod:`ranking` a table, and :mod:`agreement`
compares judges.
"""

from quatrain.evaluation.judging.agreement import Agreement, agreement
from quatrain.evaluation.judging.ranking import Ranking, Standing, rank
from quatrain.evaluation.judging.verdicts import Verdict, read_verdicts

__all__ = ["Agreement", "Ranking", "Standing", "Verdict", "agreement", "rank", "read_verdicts"]
