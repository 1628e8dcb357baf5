"""Regular expressions out of strangers' files, which may be written to take forever.

An adapter's configuration selects modules and ranks by expressions. `(a+)+$` tried on a name of forty letters takes
Python's `re` longer than the universe has left, and nothing can stop it. The package `regex`, which transformers brings
along, reads the same language and gives up after a time.
"""

import regex

from quatrain.errors import AdapterError

PATIENCE_S = 1.0
"""For one name. Honest expressions take microseconds."""


def match(expression: str, name: str, *, whole: bool = False) -> regex.Match | None:
    """What `re.match` gives, or `re.fullmatch` for `whole`.

    Raises:
        AdapterError: it isn't an expression, or takes too long.
    """
    try:
        compiled = regex.compile(expression)
        return (compiled.fullmatch if whole else compiled.match)(name, timeout=PATIENCE_S)
    except (regex.error, OverflowError, RecursionError) as error:
        raise AdapterError(
            f"the adapter's configuration has {expression!r}, no regular expression ({error}). Ask for a corrected one"
        ) from error
    except TimeoutError as error:
        raise AdapterError(
            f"the adapter's configuration has the expression {expression!r}, which takes forever on {name!r}. Don't "
            "trust this adapter"
        ) from error
