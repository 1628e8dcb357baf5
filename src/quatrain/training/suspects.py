"""The rows of steps that weren't taken, written down for a person to look at.

`suspects.jsonl` in the run folder gets a line for every sample of a micro-batch whose loss or gradient wasn't finite:
the step, the sample's number, and its text as it was trained on. Often one of them is the cause: a row of thousands of
equal tokens, or bytes that the tokenizer never saw.
"""

import json
from collections.abc import Sequence

from quatrain.runlog import RunFolder
from quatrain.training.build import Setup

_MOST_CHARACTERS = 2000


class SuspectRows:
    """Writes each sample once in a call of `train`, so that the file stays smaller than the data."""

    def __init__(self, folder: RunFolder, setup: Setup):
        self._path, self._setup = folder.suspects, setup
        self._written: set[int] = set()

    def write(self, step: int, samples: Sequence[int]) -> str:
        """Write down the samples of a step. Returns a phrase that says where they are, or why they aren't."""
        new = [number for number in dict.fromkeys(samples) if number not in self._written]
        try:
            with self._path.open("a", encoding="utf-8") as file:
                for number in new:
                    ids = self._setup.data.samples[number].input_ids.tolist()
                    text = self._setup.tokenizer.decode(ids)[:_MOST_CHARACTERS]
                    file.write(json.dumps({"step": step, "sample": number, "text": text}, ensure_ascii=False) + "\n")
        except OSError as error:
            return f"its {len(samples)} rows can't be written down ({error})"
        self._written.update(new)
        return f"its {len(samples)} rows are in {self._path}"
