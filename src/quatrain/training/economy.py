"""What happens when memory runs out within a step: something is given up, and the same step is made again.

A plan can be wrong, or another program takes what it counted on; neither is a reason to lose a run. Forward and
backward change nothing but gradients, so these are dropped and the step's samples are sent again in smaller
micro-batches. The loss is a sum over tokens, so the update stays the same but for rounding. Where a single sample is
too much, its blocks keep less. What was given up stays so: the next step would only find out again.
"""

from collections.abc import Callable, Sequence

import torch

from quatrain.data import MicroBatch
from quatrain.data.pieces import pieces
from quatrain.errors import DeviceError
from quatrain.models.objective import Objective
from quatrain.optim import AdamW

Accumulate = Callable[[Sequence[Sequence[MicroBatch]]], None]
"""Adds the gradients of some micro-batches, each in pieces; called again when memory has run out."""


class Economy:
    """Runs forward and backward of a step, in smaller and smaller micro-batches until they fit.

    Args:
        tell: told in a sentence each time that something was given up.
        expected: the most bytes that a plan saw needed, to say by how much it was wrong.
    """

    def __init__(
        self, objective: Objective, optimizer: AdamW, tell: Callable[[str], object], expected: int | None = None
    ):
        self._objective, self._optimizer, self._tell, self._expected = objective, optimizer, tell, expected
        self._parts = 1

    def run(self, accumulate: Accumulate, micro_batches: Sequence[MicroBatch]) -> None:
        """Call `accumulate` with the samples of `micro_batches`, until it gets through.

        Raises:
            DeviceError: one sample alone is too much, whatever is given up.
        """
        while True:
            batches = self._cut(micro_batches, self._parts)
            try:
                accumulate(batches)
                return
            except torch.OutOfMemoryError as error:
                said = str(error).partition(". ")[0]
            # Only behind the handler are the failed step's frames gone, and with them its tensors.
            self._optimizer.zero_grad(set_to_none=True)
            self._objective.abandon()
            self._tell(f"out of memory ({said}){self._expectation()}: {self._give_up(micro_batches)}")

    def _give_up(self, micro_batches: Sequence[MicroBatch]) -> str:
        paged = not self._optimizer.is_paged
        self._optimizer.page_out()
        paged = paged and self._optimizer.is_paged
        before, after = (_longest(self._cut(micro_batches, parts)) for parts in (self._parts, 2 * self._parts))
        if after < before:
            self._parts *= 2
            what = f"micro-batches are halved, to {after} tokens at most"
        elif policy := self._objective.keep_less():
            what = f"of each block's activations are kept: {policy.in_words}"
        elif not paged:
            raise DeviceError(
                f"A sample of {before} tokens must fit into the device's memory, and doesn't with everything "
                "recomputed. Lower `max_length`, or stop other programs on the device."
            )
        else:
            return "AdamW's state moves to host memory"
        return f"AdamW's state moves to host memory, and {what}" if paged else what

    def _expectation(self) -> str:
        if self._expected is None:
            return ""
        return f", where the plan saw {self._expected / 2**30:.2f} GiB at most"

    def _cut(self, micro_batches: Sequence[MicroBatch], parts: int) -> list[list[MicroBatch]]:
        return [[batch] if parts == 1 else pieces(batch, parts) for batch in micro_batches]


def _longest(batches: Sequence[Sequence[MicroBatch]]) -> int:
    return max((piece.input_ids.numel() for batch in batches for piece in batch), default=0)
