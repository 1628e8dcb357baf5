"""Tokenized samples, all of them in three flat arrays.

A million short samples as a million Python objects cost hundreds of bytes each and are slow to hash and to save; here
a sample is a view into one array of token ids and one of flags.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64


@dataclass(frozen=True)
class Sample:
    """Token ids, and which of them are learned. The first never is: nothing stands before it to predict it from."""

    input_ids: Int32[np.ndarray, " T"]
    supervised: Bool[np.ndarray, " T"]

    def __len__(self) -> int:
        return len(self.input_ids)


class Samples:
    """A sequence of samples. ``lengths`` are their numbers of tokens; ``fingerprint`` tells two data sets apart."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        listed = list(samples)
        self.lengths: Int64[np.ndarray, " S"] = np.array([len(sample) for sample in listed], dtype=np.int64)
        self._ends = np.cumsum(self.lengths)
        self._input_ids = _joined([sample.input_ids for sample in listed], np.int32)
        self._supervised = _joined([sample.supervised for sample in listed], np.bool_)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        end = int(self._ends[index])
        part = slice(end - int(self.lengths[index]), end)
        return Sample(self._input_ids[part], self._supervised[part])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @property
    def num_tokens(self) -> int:
        return len(self._input_ids)

    @property
    def num_supervised(self) -> int:
        return int(self._supervised.sum())

    def fingerprint(self) -> str:
        """SHA-256 over lengths, token ids and flags, as hexadecimal digits."""
        digest = hashlib.sha256()
        for array in (self.lengths, self._input_ids, self._supervised):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.zeros(0, dtype)
