"""A mean and how far it may be off."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        """Whether `value` lies in the interval, ends included: ``0 in interval`` says that a difference isn't shown."""
        return self.low <= value <= self.high
