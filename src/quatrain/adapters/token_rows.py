"""Training chosen rows of an embedding, such as those of new tokens, while the table itself stays frozen.

The rows are kept as themselves, not as differences to the table's: for new tokens the table holds arbitrary values,
and an adapter must not depend on those. Where the head shares the embedding's table, it shares the trained rows.
PEFT writes the rows into a copy of the whole table at every forward; here the table's answer is computed as always and
corrected where a chosen token takes part. So a table of 4 bits works as well.

Source: ``tuners/trainable_tokens/layer.py`` of PEFT 0.21.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quatrain.adapters.wrapper import Wrapper


class TokenRows(Wrapper):
    """An embedding (ids [...] → [..., H]) or a head ([..., H] → [..., V]) with some trained rows.

    Args:
        base_layer: the embedding or the head; frozen.
        token_indices: the rows, each once.
        rows: the parameter [N, H] of the embedding that a head shares its table with. Default: a new one, which starts
            at the base's rows.

    ``trainable_tokens_delta`` [N, H] is float32; the name is PEFT's, although it holds the rows themselves.
    """

    parameter_names = ("trainable_tokens_delta",)
    token_indices: Tensor
    _place: Tensor

    def __init__(self, base_layer: nn.Module, token_indices: Sequence[int], rows: nn.Parameter | None = None):
        super().__init__(base_layer)
        table: Tensor = base_layer.weight  # pyright: ignore[reportAssignmentType]
        indices = torch.tensor(list(token_indices), device=table.device)
        place = torch.full((table.shape[0],), -1, device=table.device)
        place[indices] = torch.arange(len(indices), device=table.device)
        self.register_buffer("token_indices", indices, persistent=False)
        self.register_buffer("_place", place, persistent=False)
        self.is_embedding = hasattr(base_layer, "num_embeddings")
        self.shares = rows is not None
        self.trainable_tokens_delta = nn.Parameter(table[indices].detach().float()) if rows is None else rows

    @property
    def weight(self) -> Tensor:
        """The whole table [V, H] with the trained rows in it, in the base's dtype."""
        table: Tensor = self.base_layer.weight  # pyright: ignore[reportAssignmentType]
        return table.index_copy(0, self.token_indices, self.trainable_tokens_delta.to(table.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self._embed(x) if self.is_embedding else self._logits(x)

    def _embed(self, ids: Tensor) -> Tensor:
        found: Tensor = self.base_layer(ids)
        place = self._place[ids]
        rows = F.embedding(place.clamp_min(0), self.trainable_tokens_delta).to(found.dtype)
        # Gemma's embedding multiplies what it looks up.
        scale = getattr(self.base_layer, "embed_scale", None)
        if scale is not None:
            rows = rows * scale.to(rows.dtype)
        return torch.where((place >= 0)[..., None], rows, found)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.base_layer(hidden)
        bias = getattr(self.base_layer, "bias", None)
        chosen = F.linear(
            hidden.to(logits.dtype),
            self.trainable_tokens_delta.to(logits.dtype),
            None if bias is None else bias[self.token_indices].to(logits.dtype),
        )
        return logits.index_copy(-1, self.token_indices, chosen)

    def extra_repr(self) -> str:
        return f"tokens={len(self.token_indices)}"
