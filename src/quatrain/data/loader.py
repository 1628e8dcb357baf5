"""Hands out micro-batches epoch after epoch, from a position that fits in a few numbers.

The order of an epoch is a function of (seed, epoch, lengths), so the position is just an epoch and an index into it.
A checkpoint that holds these two resumes with the very next micro-batch, without replaying the ones before.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from quatrain.data.batch import MicroBatch, packed_batch, padded_batch, rounded
from quatrain.data.packing import packed_epoch, padded_epoch
from quatrain.data.samples import Samples
from quatrain.errors import CheckpointError, DataError


class Loader:
    """Micro-batches over samples, in an order that depends on seed and epoch only.

    Args:
        samples: what to train on, none longer than ``max_length``.
        max_length: the most tokens of a sample.
        batch_size: samples of a padded micro-batch; a packed one has at most ``max_length * batch_size`` tokens.
        packing: whether samples share rows.
        fixed_tokens: give every packed row the same number of tokens: as many as fit, or as there are.
        pad_token_id: what fills a row; any id will do, as it is masked or a sample of its own.
        seed: of the shuffling.

    Raises:
        DataError: there are no samples, or one is longer than ``max_length``.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        max_length: int,
        batch_size: int,
        packing: bool,
        fixed_tokens: bool = False,
        pad_token_id: int = 0,
        seed: int = 0,
    ) -> None:
        if len(samples) == 0:
            raise DataError("A loader needs at least one sample.")
        if int(samples.lengths.max()) > max_length:
            raise DataError(f"`max_length` is {max_length}, but a sample has {int(samples.lengths.max())} tokens.")
        self._samples = samples
        self._fixed_tokens = fixed_tokens
        self._pad_token_id = pad_token_id
        self._identity = {
            "seed": seed,
            "max_length": max_length,
            "batch_size": batch_size,
            "packing": packing,
            "fingerprint": samples.fingerprint(),
        }
        self._epoch, self._index = 0, 0
        self._planned: tuple[int, list[list[int]]] | None = None

    def __len__(self) -> int:
        """Micro-batches of the current epoch."""
        return self.num_batches(self._epoch)

    def num_batches(self, epoch: int) -> int:
        """Micro-batches of an epoch; packed epochs may differ by a few, as another order packs a little differently."""
        return len(self._plan(epoch))

    @property
    def most_tokens(self) -> int:
        """Tokens that a micro-batch has at most, padding included."""
        longest = rounded(int(self._samples.lengths.max()), self._identity["max_length"])
        if not self._identity["packing"]:
            return longest * self._identity["batch_size"]
        return rounded(int(self._samples.lengths.sum()), self._identity["max_length"] * self._identity["batch_size"])

    def __iter__(self) -> Iterator[MicroBatch]:
        """Micro-batches from the current position on, without end: after an epoch comes the next."""
        while True:
            yield from self.epoch(self._epoch)

    def epoch(self, number: int) -> Iterator[MicroBatch]:
        """The micro-batches of an epoch: what is left of the current one, or all of another.

        The position moves on when a micro-batch is handed out, so a state that is saved after working on it continues
        with the next one.
        """
        plan = self._plan(number)
        if number != self._epoch:
            self._epoch, self._index = number, 0
        for index in range(self._index, len(plan)):
            last = index + 1 == len(plan)
            self._epoch, self._index = (number + 1, 0) if last else (number, index + 1)
            yield replace(self._build(plan[index]), samples=tuple(plan[index]))

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in; made of numbers and strings only."""
        return {"epoch": self._epoch, "index": self._index, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position.

        Raises:
            CheckpointError: the state is of other data or settings, or isn't a loader's state.
        """
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                what = "the data changed" if name == "fingerprint" else f"`{name}` was {state.get(name)!r}, is {ours!r}"
                raise CheckpointError(
                    f"The saved position belongs to another run of micro-batches: {what}. "
                    "Resume with the data and settings of the checkpoint, or start a new run."
                )
        epoch, index = state.get("epoch"), state.get("index")
        if not (isinstance(epoch, int) and isinstance(index, int) and epoch >= 0 and index >= 0):
            raise CheckpointError(f"A loader's state needs epoch and index of at least 0, got {epoch!r} and {index!r}.")
        if index >= self.num_batches(epoch):
            raise CheckpointError(f"The saved index {index} is beyond the {self.num_batches(epoch)} of epoch {epoch}.")
        self._epoch, self._index = epoch, index

    def _plan(self, epoch: int) -> list[list[int]]:
        """Which samples make each micro-batch of an epoch; the epoch asked for last is kept."""
        if self._planned is None or self._planned[0] != epoch:
            size, seed = self._identity["batch_size"], self._identity["seed"]
            if self._identity["packing"]:
                plan = packed_epoch(self._samples.lengths, size * self._identity["max_length"], seed, epoch)
            else:
                plan = padded_epoch(self._samples.lengths, size, seed, epoch)
            self._planned = (epoch, plan)
        return self._planned[1]

    def _build(self, indices: list[int]) -> MicroBatch:
        chosen = [self._samples[index] for index in indices]
        limit = self._identity["max_length"]
        if not self._identity["packing"]:
            return padded_batch(chosen, self._pad_token_id, limit)
        capacity = limit * self._identity["batch_size"]
        longest = rounded(int(self._samples.lengths.max()), limit)
        filled = self._samples.lengths if self._fixed_tokens else self._samples.lengths[indices]
        return packed_batch(chosen, self._pad_token_id, tokens=rounded(int(filled.sum()), capacity), longest=longest)
