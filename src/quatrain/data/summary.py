"""What came out of preparing a data set, in numbers and by one example, to be looked at before training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from quatrain.data.samples import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PERCENTILES = (0, 50, 90, 99, 100)

Segment = tuple[str, bool]
"""A piece of text, and whether it is learned."""


@dataclass
class DataSummary:
    """Counts of one data set. ``str()`` of it is what the command line shows without colours."""

    rows: int = 0
    """Conversations, completions or texts that were read."""
    samples: int = 0
    """Those that are left to train on."""
    tokens: int = 0
    supervised_tokens: int = 0
    """Tokens that the loss is taken on."""
    cut: int = 0
    """Samples that were cut at ``max_length``."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason → how many rows were left out for it."""
    bad: Counter[str] = field(default_factory=Counter)
    """What is wrong → how many rows couldn't be read or rendered; they aren't among ``rows``."""
    bad_first: list[str] = field(default_factory=list)
    """The first few bad rows, with place and reason."""
    found: Counter[str] = field(default_factory=Counter)
    """What is odd about a row that is trained on → how many there are."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Percentile → tokens of a sample before cutting."""
    packing_fill: float = 0.0
    """The part of the room of packed micro-batches of ``max_length`` tokens that is used."""
    example: Sequence[Segment] = ()
    """The first sample, decoded, in pieces that are learned or not."""
    notes: list[str] = field(default_factory=list)
    """What the reader should know: a plain template in use, prompts that don't begin their samples."""

    def __str__(self) -> str:
        lines = [
            f"{self.rows:,} rows → {self.samples:,} samples, {self.tokens:,} tokens, "
            f"{self.supervised_tokens:,} of them learned ({self.supervised_tokens / max(self.tokens, 1):.0%})",
            "lengths: " + ", ".join(f"{_percentile_name(p)} {n:,}" for p, n in self.lengths.items()),
            f"packed into rows of max_length: {self.packing_fill:.1%} full",
        ]
        lines += [f"cut at max_length: {self.cut:,}"] if self.cut else []
        lines += [f"left out: {count:,} ({reason})" for reason, count in self.dropped.most_common()]
        lines += [f"bad rows, left out: {count:,} ({kind})" for kind, count in self.bad.most_common()]
        lines += [f"bad: {row}" for row in self.bad_first]
        lines += [f"odd: {count:,} ({finding})" for finding, count in self.found.most_common()]
        lines += [f"note: {note}" for note in self.notes]
        shown = "".join(f"⟦{text}⟧" if learned else text for text, learned in self.example)
        return "\n".join([*lines, "one sample, learned parts in ⟦⟧:", shown])


def _percentile_name(percentile: int) -> str:
    return {0: "shortest", 50: "median", 100: "longest"}.get(percentile, f"{percentile}% up to")


def percentiles(lengths: Sequence[int]) -> dict[int, int]:
    """Percentile → length, each an actual length of the data."""
    values = np.percentile(np.array(lengths), PERCENTILES, method="nearest")
    return {percentile: int(value) for percentile, value in zip(PERCENTILES, values, strict=True)}


def segments(sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> list[Segment]:
    """The sample decoded, split where learned and unlearned tokens meet; special tokens stay visible."""
    pieces = []
    for learned, part in groupby(zip(sample.input_ids, sample.supervised, strict=True), key=lambda pair: bool(pair[1])):
        ids = [int(token) for token, _ in part]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        pieces.append((str(text), learned))
    return pieces
