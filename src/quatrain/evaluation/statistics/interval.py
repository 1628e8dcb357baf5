"""A mean and how far it may be off."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    @property
    def is_point(self) -> bool:
        """Whether there is nothing but the mean, because all values are equal: no interval at all then."""
        return self.low == self.high

    def __contains__(self, value: float) -> bool:
        """Whether `value` lies in the interval, ends included: ``0 in interval`` says that a difference isn't shown."""
        return self.low <= value <= self.high
