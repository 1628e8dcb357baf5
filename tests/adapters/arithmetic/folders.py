"""Adapters on disk, drawn at random, for a base of a few linears."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora, save_adapter


def base() -> nn.Module:
    """Linears in the order of their names, which is the order that PEFT and we then share."""
    torch.manual_seed(0)

    def block() -> nn.Module:
        return nn.ModuleDict({"k": nn.Linear(24, 12), "q": nn.Linear(24, 40)})

    return nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(2))})


def trained(folder: Path, **settings: Any) -> Path:
    """A new random adapter of `base()`."""
    given: dict[str, Any] = {"r": 4, "lora_alpha": 7}
    model = attach_lora(base(), LoraConfig(**given | settings))
    for parameter in adapter_parameters(model).values():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(_fresh()))
    return save_adapter(model, folder)


def _fresh() -> int:
    return int.from_bytes(os.urandom(4), "little")
