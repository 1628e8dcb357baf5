"""What becomes of rows that can't be read or used: the first one ends the run, or they are counted up to a cap.

Whoever reads or renders a row raises :class:`~quatrain.errors.RowError` about it; whoever loops over rows hands that to
:meth:`BadRows.meet` and goes on with the next row, if it returns. The cap is there because a file of which every row is
bad is another file than its owner thinks, and training on the few rows that happen to read would hide it.
"""

from collections import Counter

from quatrain.data.config import DataConfig
from quatrain.errors import DataError, RowError

SHOWN = 5
"""Bad rows that are kept to be shown, each with its place and reason."""


class BadRows:
    """The bad rows of one pass over a data set."""

    def __init__(self, config: DataConfig) -> None:
        self._skips, self._cap = config.on_bad_row == "skip", config.max_bad_rows
        self.counts: Counter[str] = Counter()
        """What is wrong → rows that were left out for it."""
        self.first: list[str] = []
        """The first few, with place and reason."""

    def meet(self, error: RowError) -> None:
        """Count a bad row.

        Raises:
            RowError: bad rows stop the run.
            DataError: there are more than the cap allows.
        """
        if not self._skips:
            raise error
        self.counts[error.kind] += 1
        if len(self.first) < SHOWN:
            self.first.append(str(error))
        if self.counts.total() > self._cap:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.most_common())
            raise DataError(
                f"more rows are bad than the {self._cap:,} that `max_bad_rows` allows ({kinds}); the last: {error}"
            ) from error
