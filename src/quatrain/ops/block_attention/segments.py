"""Where the samples of a packed row lie, told to the device once per micro-batch and never asked back."""

from typing import NamedTuple

from jaxtyping import Int32
from torch import Tensor


class Segments(NamedTuple):
    """The samples of a row of T tokens, end to end; every token belongs to one (a padded tail is a sample as well)."""

    ends: Int32[Tensor, " ends"]
    """int32 [S + 1] on the row's device: 0, then where each sample ends. Slots after the last sample repeat T, so that
    S, and with it every shape and every launch, is the same for each micro-batch."""
    max_length: int
    """Tokens; no sample is longer. Known to the host, so it sizes launches; a bound that never changes is best."""
