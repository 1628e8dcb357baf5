"""A linear whose rows have adapters of their own, so that one batch can serve several.

The adapters lie below one another as one of a higher rank: A = [A₁; A₂; …], B = [s₁B₁, s₂B₂, …]. Then x Aᵀ has columns
for each of them, and for every row of the batch those of other adapters are set to zero before B:

    y = W x + B (m ∘ A x),   m [B, R]: ones in the columns of the row's own adapter

Two thin products whatever the number of adapters, and no sorting of rows. (PEFT runs the products of each adapter on
the rows that want it, one after the other.) The frozen product is one for all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quatrain.adapters.lora import LoraLinear
from quatrain.errors import AdapterError


class MixedLinear(LoraLinear):
    """`base_layer` with one of `layers` for each row of a batch; for inference.

    Args:
        base_layer: the linear that all share.
        layers: LoRA layers around it.
        chosen: for each row the index of its layer, None for the base alone.
    """

    own_BR: Tensor

    def __init__(self, base_layer: nn.Module, layers: Sequence[LoraLinear], chosen: Sequence[int | None]):
        ranks = [layer.r for layer in layers]
        super().__init__(base_layer, r=sum(ranks), lora_alpha=sum(ranks))
        with torch.no_grad():
            self.lora_A.copy_(torch.cat([layer.lora_A for layer in layers]))
            self.lora_B.copy_(torch.cat([layer.lora_B * layer.scaling for layer in layers], dim=1))
        layer_R = torch.arange(len(layers)).repeat_interleave(torch.tensor(ranks))
        wanted_B = torch.tensor([-1 if index is None else index for index in chosen])
        self.register_buffer("own_BR", (wanted_B[:, None] == layer_R).to(self.lora_A.device), persistent=False)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B · n, ..., in], n entries (beams, or tokens of a flattened batch) for each row → [B · n, ..., out].

        Raises:
            AdapterError: the batch has another number of rows.
        """
        rows = len(self.own_BR)
        if x.shape[0] % rows:
            raise AdapterError(f"adapters were chosen for {rows} rows, and the batch has {x.shape[0]}")
        x_TI = self._tokens(x)
        h = (x_TI @ self.lora_A.T.to(x_TI.dtype)).view(*x.shape[:-1], self.r)
        own = self.own_BR.repeat_interleave(x.shape[0] // rows, dim=0)
        h = h * own.view(len(own), *[1] * (x.ndim - 2), self.r)
        update_TO = h.view(-1, self.r) @ self.lora_B.T.to(x_TI.dtype)
        return self._with_base(update_TO, x_TI).view(*x.shape[:-1], self.out_features)
