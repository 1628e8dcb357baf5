"""Scores of one answer against its reference: 1 when they agree under the metric's rule, else 0."""

import json
import re
from collections.abc import Callable
from typing import Any

# Numbers as people write them: sign, thousands separators, decimals.
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def exact_match(answer: str, reference: str) -> bool:
    """Equal texts, outer white space aside."""
    return answer.strip() == reference.strip()


def json_match(answer: str, reference: str) -> bool:
    """Both are JSON and mean the same value; the order of keys and white space don't count."""
    return _json(answer) is not None and _json(answer) == _json(reference)


def number_match(answer: str, reference: str) -> bool:
    """The last number in each is equal, as GSM8K scores its answers."""
    return last_number(answer) is not None and last_number(answer) == last_number(reference)


def last_number(text: str) -> float | None:
    """The last number in a text, thousands separators removed."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _json(text: str) -> tuple[Any] | None:
    """The value in a tuple, so that JSON's null isn't mistaken for a failure."""
    try:
        return (json.loads(text),)
    except ValueError:
        return None


METRICS: dict[str, Callable[[str, str], bool]] = {
    "exact_match": exact_match,
    "json_match": json_match,
    "number_match": number_match,
}
