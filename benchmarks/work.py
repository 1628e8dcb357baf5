"""What a training step works on, and what a library has to offer to be timed doing it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from benchmarks.floor import Recompute

LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 1.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """An optimizer step of QLoRA on random tokens, adapters of rank r on every linear, lora_alpha = r."""

    model: str
    """A name of :mod:`checkpoints`."""
    samples: int
    length: int
    """Tokens of each sample."""
    r: int = 16
    dropout: float = 0.0
    recompute: Recompute = "nothing"
    """What the floor counts as run twice. A peer checkpoints its activations unless it is "nothing"."""
    keep: str = "off"
    """What Quatrain's blocks keep: a value of its setting `gradient_checkpointing`."""
    fused_blocks: Literal["auto", "on", "off"] = "auto"
    """Quatrain's setting of that name."""
    cap_gib: float | None = None
    """The most that the process may take from the GPU, enforced: whoever needs more is out of memory."""
    peer_samples: int | None = None
    """Samples in a peer's micro-batch; None: all of them."""
    warm_up: int = 5
    """Steps before those: kernels are compiled, and an engine may watch some before it decides to record one."""
    steps: int = 10
    """Timed steps."""

    @property
    def tokens(self) -> int:
        return self.samples * self.length


class Training(Protocol):
    """A model with its adapter and optimizer, ready to step."""

    adapter: dict[str, Tensor]
    """The trained tensors in place, by PEFT's names: ``<module>.lora_A`` [r, inputs], ``lora_B`` [outputs, r]."""

    @property
    def notes(self) -> list[str]:
        """What was decided by itself and why."""
        ...

    def prepare(self, ids_BS: Tensor) -> Any:
        """Token ids of B samples, on the host, as what :meth:`step` takes: the part of a data loader, not timed."""
        ...

    def step(self, batches: Any) -> Any:
        """Forward, backward, clipping and update over one prepared batch."""
        ...

    def gradients(self, batches: Any) -> tuple[float, dict[str, Tensor]]:
        """The mean loss per token before the update, and the adapter's gradient of it, without clipping."""
        ...


OpenTraining = Callable[[Path, Work, torch.device], Training]
"""(folder of the checkpoint, work, device) → what trains."""
