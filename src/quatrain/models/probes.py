"""A few random tokens, to find out what a model computes instead of assuming it."""

import torch
from torch import Tensor, nn


def probe_tokens(model: nn.Module, count: int, seed: int = 0) -> Tensor:
    """[1, count] token ids drawn over the whole vocabulary, on the model's device."""
    vocabulary = model.get_input_embeddings().num_embeddings  # pyright: ignore
    ids = torch.randint(0, vocabulary, (1, count), generator=torch.Generator().manual_seed(seed))
    return ids.to(next(model.parameters()).device)


def tolerance(dtype: torch.dtype) -> float:
    """Relative error that rounding alone may cause over a deep model; a leak between samples exceeds it many times."""
    return 1e-4 if dtype == torch.float32 else 3e-2
