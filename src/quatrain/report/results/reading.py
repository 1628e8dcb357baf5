"""Result files as checked values: what a page shows of them, whatever else they hold."""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from quatrain.errors import DataError
from quatrain.report.wording import FRACTIONS

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """A mean and its interval."""

    mean: float
    low: float
    high: float

    @property
    def percents(self) -> "Figure":
        """A share as percentages."""
        return Figure(100 * self.mean, 100 * self.low, 100 * self.high)


def checked(owner: type[T], content: Any, source: str) -> T:
    """`content` as a dataclass; keys that it doesn't have are left out.

    Raises:
        DataError: a value is missing or of another kind; names the first.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(owner).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{source} isn't a file of results: {place}: {first['msg']}") from error


def is_share(name: str, figures: list[Figure]) -> bool:
    """Whether a score reads best in percent: it is named as a share of examples, and all its values are."""
    values = [value for figure in figures for value in (figure.mean, figure.low, figure.high)]
    return name.endswith(FRACTIONS) and all(math.isfinite(value) and 0 <= value <= 1 for value in values)
