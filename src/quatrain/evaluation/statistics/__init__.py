"""How far a measured mean may be off: intervals by the bootstrap."""

from quatrain.evaluation.statistics.bootstrap import mean_interval, paired_difference
from quatrain.evaluation.statistics.interval import Interval

__all__ = ["Interval", "mean_interval", "paired_difference"]
