"""Notices a loss that jumps. It is reported and nothing more: a jump may be a few odd rows or the beginning of the end,
and only who knows the data can tell."""

from collections import deque
from statistics import median

_WINDOW = 64
_ENOUGH = 16
_SPREADS = 8
_SMALLEST_JUMP = 0.5


class LossWatch:
    """Says when a step's loss jumps: above the median of the last 64 steps by 8 times their median deviation from it,
    and by half a nat at least.

    Medians, because one jump must not hide the next, as it would in a mean. A loss that stays up is said once; it is
    compared with what came before until it is back or has filled half of the window. A run that is resumed looks at 16
    steps first.
    """

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._up = False

    def note(self, loss: float) -> str | None:
        """A sentence about this step's finite loss if it jumps where the one before didn't; None otherwise."""
        before, self._up = self._up, False
        said = None
        if len(self._losses) >= _ENOUGH:
            usual = median(self._losses)
            spread = median(abs(each - usual) for each in self._losses)
            self._up = loss - usual > max(_SPREADS * spread, _SMALLEST_JUMP)
            if self._up and not before:
                said = (
                    f"the loss jumped to {loss:.3f}; that of the {len(self._losses)} steps before was about {usual:.3f}"
                )
        self._losses.append(loss)
        return said
