"""One optimizer step over one or more micro-batches.

The loss is summed over supervised tokens and divided by their number in the whole step. Averaging per micro-batch
first, as is often done, would weigh a token by the company it happens to keep: 8 × 1 and 1 × 8 rows would give
different updates.

Backward runs on the sum and the adapter's float32 gradients are divided afterwards: divided beforehand, those of
activations would be thousands of times smaller, and in float16 many of them zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quatrain.data import MicroBatch
from quatrain.models.objective import Objective
from quatrain.training.economy import Economy


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
    supervised = sum(batch.num_supervised for batch in micro_batches)

    def accumulate(batches: Sequence[MicroBatch]) -> Tensor:
        loss = torch.zeros((), device=parameters[0].device)
        for batch in batches:
            loss += objective.accumulate(batch) / supervised
        return loss

    loss = accumulate(micro_batches) if economy is None else economy.run(accumulate, micro_batches)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    torch._foreach_div_(gradients, supervised)  # pyright: ignore[reportPrivateImportUsage]
    limit = max_grad_norm or math.inf
    norm = nn.utils.clip_grad_norm_(parameters, limit)
    mean, size = torch.stack([loss, norm]).tolist()
    taken = math.isfinite(mean) and math.isfinite(size)
    if taken:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(mean, size, sum(batch.num_tokens for batch in micro_batches), supervised, taken)
