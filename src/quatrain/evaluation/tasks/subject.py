"""Who is asked: a model with its adapter and tokenizer, and the fingerprint by which its answers are known again."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from quatrain.adapters import base_identity
from quatrain.adapters.provenance import template_fingerprint, tokenizer_fingerprint
from quatrain.evaluation.likelihood import Likelihood

DIGITS = 8
"""Of a fingerprint, in names of files."""

_ELEMENTS = 1024
"""Of each tensor that are looked at: a hash over all of a large model would take longer than many a task."""


@dataclass(frozen=True)
class Subject:
    """A model as it is now; make a new one after switching its adapter."""

    model: Any
    tokenizer: Any
    name: str
    """What a person calls it."""
    batch_size: int
    """Prompts that are answered at once."""
    root: Path
    """Folder for the answers of all subjects."""

    @cached_property
    def folder(self) -> Path:
        """The subject's own folder."""
        return self.root / f"{file_name(self.name)}-{self.fingerprint[:DIGITS]}"

    @cached_property
    def likelihood(self) -> Likelihood:
        return Likelihood(self.model)

    @property
    def context(self) -> int:
        """The most tokens of a sample that the model was made for."""
        config = self.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or 2048

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what its answers depend on: weights in the form in which they are computed with, adapter, and
        what the tokenizer makes of texts and conversations. Where and in which batches it is computed doesn't count.

        Of each tensor evenly spaced elements are looked at. Weights that are streamed from host memory aren't modules'
        tensors; the identity of the base on disk stands for them.
        """
        identity = base_identity(self.model)
        digest = hashlib.sha256(f"{identity and identity.fingerprint} {self.model.dtype}".encode())
        for name, tensor in sorted(self.model.state_dict(keep_vars=True).items()):
            if isinstance(tensor, torch.Tensor):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(_some_bytes(tensor.detach()))
        digest.update(f"{tokenizer_fingerprint(self.tokenizer)} {template_fingerprint(self.tokenizer)}".encode())
        return digest.hexdigest()


def _some_bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.reshape(-1)
    chosen = flat[:: max(1, flat.numel() // _ELEMENTS)].contiguous()
    return chosen.cpu().view(torch.uint8).numpy().tobytes()


def file_name(name: str) -> str:
    """A name of a task or a model as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "unnamed"
