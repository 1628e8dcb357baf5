"""Loss and perplexity on held-out rows: the training objective without training."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from quatrain.data import MicroBatch
from quatrain.models.objective import Objective


@dataclass(frozen=True)
class LossResult:
    """Cross-entropy over supervised tokens."""

    loss: float
    """Mean per supervised token, in nats."""
    supervised_tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


def evaluate_loss(objective: Objective, batches: Iterable[MicroBatch]) -> LossResult:
    """Mean loss over all supervised tokens of `batches`, each counting the same. The model is left in its mode."""
    model = objective.model
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    for batch in batches:
        total += objective.loss(batch).double().item()
        tokens += batch.num_supervised
    model.train(was_training)
    return LossResult(total / tokens if tokens else math.nan, tokens)
