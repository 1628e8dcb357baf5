"""One optimizer step over one or more micro-batches.

The loss is summed over supervised tokens and divided by their number in the whole step. Averaging per micro-batch
first, as is often done, would weigh a token by the company it happens to keep: 8 × 1 and 1 × 8 rows would give
different updates.

Backward runs on the sum and the adapter's float32 gradients are divided afterwards: divided beforehand, those of
activations would be thousands of times smaller, and in float16 many of them zero.

A step can be left after any of its micro-batches, saved, and taken up by another process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from quatrain.data import MicroBatch
from quatrain.models.objective import Objective
from quatrain.training.economy import Economy

Look = Callable[[Sequence[nn.Parameter]], None]
"""Shown the parameters when their gradient is complete and not yet clipped."""


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    loss: float
    """Mean cross-entropy per supervised token before the update, in nats."""
    grad_norm: float
    """Global L2 norm of the adapter's gradient before clipping."""
    tokens: int
    supervised_tokens: int
    taken: bool
    """False when the loss or the gradient wasn't finite: the adapter is as it was."""
    suspects: tuple[int, ...] = ()
    """Samples of a step that wasn't taken, by number: of the micro-batches whose loss wasn't finite, or of all when
    each loss was and the gradient wasn't."""


class Step:
    """A step on its way.

    Args:
        micro_batches: all that it has.
        losses: of the first few of them, which another process has done; the parameters hold their gradient.
        economy: what to do when memory runs out; None: fail.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Sequence[nn.Parameter],
        micro_batches: Sequence[MicroBatch],
        *,
        losses: Sequence[float] = (),
        economy: Economy | None = None,
    ):
        self._objective, self._parameters, self._economy = objective, parameters, economy
        self._micro_batches = micro_batches
        self._losses = list(torch.tensor(losses, device=parameters[0].device).unbind())
        if not losses:
            # An exception in the step before may have left half of a gradient.
            clear_gradients(parameters)

    def accumulate(self, goes_on: Callable[[int], bool] = lambda to_do: True) -> bool:
        """Forward and backward over the micro-batches, until all are done or one isn't to be begun any more. The model
        is in training mode. → whether all are done.

        Args:
            goes_on: asked after each micro-batch but the last whether to do the next, given how many are left.
        """
        begun = self._losses

        def run(pieces: Sequence[Sequence[MicroBatch]]) -> None:
            nonlocal begun
            # When memory runs out, all gradients are dropped and this is called again: then nothing is done yet.
            self._losses, begun = begun, []
            for batch in pieces[len(self._losses) :]:
                self._losses.append(torch.stack([self._objective.accumulate(piece) for piece in batch]).sum())
                to_do = len(pieces) - len(self._losses)
                if to_do and not goes_on(to_do):
                    return

        if self._economy is None:
            run([[batch] for batch in self._micro_batches])
        else:
            self._economy.run(run, self._micro_batches)
        return len(self._losses) == len(self._micro_batches)

    def losses(self) -> tuple[float, ...]:
        """Of each micro-batch that is done: the sum over its supervised tokens, in nats. Waits for the device."""
        return tuple(torch.stack(self._losses).tolist())

    def finish(self, optimizer: torch.optim.Optimizer, *, max_grad_norm: float, look: Look | None = None) -> StepResult:
        """Clip and update, if all is finite. Waits for the device."""
        supervised = sum(batch.num_supervised for batch in self._micro_batches)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_div_(gradients, supervised)  # pyright: ignore[reportPrivateImportUsage]
        if look is not None:
            look(self._parameters)
        losses = torch.stack(self._losses)
        norm = nn.utils.clip_grad_norm_(self._parameters, max_grad_norm or math.inf)
        mean, size = torch.stack([losses.sum() / supervised, norm]).tolist()
        taken = math.isfinite(mean) and math.isfinite(size)
        if taken:
            optimizer.step()
        clear_gradients(self._parameters)
        suspects = () if taken else self._suspects(losses.isfinite().tolist())
        tokens = sum(batch.num_tokens for batch in self._micro_batches)
        return StepResult(mean, size, tokens, supervised, taken, suspects)

    def _suspects(self, finite: list[bool]) -> tuple[int, ...]:
        suspected = [batch for batch, fine in zip(self._micro_batches, finite, strict=True) if not fine]
        return tuple(number for batch in suspected or self._micro_batches for number in batch.samples)


def train_step(
    objective: Objective,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[MicroBatch],
    *,
    max_grad_norm: float,
    economy: Economy | None = None,
) -> StepResult:
    """Forward and backward over all micro-batches, clip, update. The model is in training mode.

    Args:
        economy: what to do when memory runs out; None: fail.
    """
    step = Step(objective, parameters, micro_batches, economy=economy)
    step.accumulate()
    return step.finish(optimizer, max_grad_norm=max_grad_norm)


def clear_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Let go of all gradients."""
    for parameter in parameters:
        parameter.grad = None
