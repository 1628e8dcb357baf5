"""The objective of methods that Quatrain doesn't have, in the shape that its evaluation and training step ask for."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.libraries.peft_training import autocast
from quatrain.data import MicroBatch


class ThroughModel:
    """Sum of the loss over a padded batch's supervised tokens, by transformers' own forward and loss.

    Trained weights are float32 masters; products run in the device's 16-bit type. A model of PEFT's prompt tuning puts
    its vectors before each row by itself, and leaves them out of the loss.
    """

    packs = False

    def __init__(self, model: Any, device: torch.device):
        self.model, self._device = model, device

    @torch.no_grad()
    def loss(self, batch: MicroBatch) -> Tensor:
        return self._forward(batch)

    def accumulate(self, batch: MicroBatch) -> Tensor:
        loss = self._forward(batch)
        loss.backward()
        return loss.detach()

    def _forward(self, batch: MicroBatch) -> Tensor:
        assert batch.attention_mask is not None
        labels = torch.full_like(batch.input_ids, -100)
        labels[:, 1:] = batch.targets[:, :-1]
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}
        with autocast(self._device):
            mean = self.model(**{name: tensor.to(self._device) for name, tensor in inputs.items()}).loss
        return mean * batch.num_supervised
