"""A training step as trainers on PEFT run it, around any PEFT model: autocast, bitsandbytes' paged 8-bit AdamW."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from benchmarks.work import LEARNING_RATE, MAX_GRAD_NORM, Work
from quatrain.device import compute_dtype


class PeftTraining:
    """What all peers share once their model carries its adapter."""

    def __init__(self, model: Any, work: Work, device: torch.device):
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

        self.model, self._work, self._device = model.train(), work, device
        self.adapter: dict[str, Tensor] = {
            plain_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        optimizer = PagedAdamW8bit if device.type == "cuda" else AdamW8bit
        self._optimizer = optimizer(list(self.adapter.values()), lr=LEARNING_RATE, weight_decay=0.0)
        self.notes: list[str] = []

    def prepare(self, ids_BS: Tensor) -> list[Tensor]:
        """Micro-batches on the device."""
        return list(ids_BS.to(self._device).split(self._work.peer_samples or len(ids_BS)))

    def step(self, batches: list[Tensor]) -> Tensor:
        loss = self._backward(batches)
        torch.nn.utils.clip_grad_norm_(self.adapter.values(), MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss

    def gradients(self, batches: list[Tensor]) -> tuple[float, dict[str, Tensor]]:
        loss = self._backward(batches).item()
        found = {name: parameter.grad for name, parameter in self.adapter.items()}
        return loss, {name: gradient for name, gradient in found.items() if gradient is not None}

    def _backward(self, batches: list[Tensor]) -> Tensor:
        total = torch.zeros((), device=self._device)
        for ids_BS in batches:
            with autocast(self._device):
                loss = self.model(input_ids=ids_BS, labels=ids_BS).loss / len(batches)
            loss.backward()
            total += loss.detach()
        return total


def plain_name(name: str) -> str:
    """The name of an adapter's tensor without what PEFT wraps around it: ``<module>.lora_A``."""
    return name.removeprefix("base_model.model.").replace(".default.weight", "")


def autocast(device: torch.device, dtype: torch.dtype | None = None) -> AbstractContextManager:
    """PEFT keeps adapters in float32; products run in the machine's 16-bit type, as under a trainer."""
    dtype = dtype or compute_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
