"""All blocks of a model, run forward and backward without autograd."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from quatrain.blocks.backward import backward
from quatrain.blocks.block import DecoderBlock
from quatrain.blocks.flat_adapter import FlatAdapter
from quatrain.blocks.kept import Kept, Row, there
from quatrain.blocks.policy import Policy
from quatrain.blocks.rotary_tables import RotaryTables
from quatrain.blocks.spec import BlockModules, BlockSpec
from quatrain.blocks.store import ActivationStore
from quatrain.blocks.weights import WeightSource
from quatrain.blocks.workspace import Workspace
from quatrain.ops.rms_norm import rms_norm, rms_norm_backward


class BlockStack:
    """A decoder without embedding and head.

    Args:
        blocks: spec and modules of each block, from first to last.
        final_norm: the RMSNorm behind the last one.
        tables: rotary tables.
        device, dtype: where and in what the blocks compute.
        weights: who hands the blocks what their modules don't hold; None: nothing.
    """

    def __init__(
        self,
        blocks: Sequence[tuple[BlockSpec, BlockModules]],
        final_norm,
        tables: RotaryTables,
        device: torch.device,
        dtype: torch.dtype,
        weights: WeightSource | None = None,
    ):
        self.workspace = Workspace(device, dtype)
        self.blocks = [
            DecoderBlock(spec, modules, index, self.workspace, tables) for index, (spec, modules) in enumerate(blocks)
        ]
        self.final_norm = final_norm
        self.adapter = FlatAdapter([product for block in self.blocks for product in block.products], dtype)
        self.weights = weights
        self._prepared: int | None = None
        """The block that has been handed its weights."""
        self._store = ActivationStore(device)
        self._last_TH: Tensor | None = None
        """Between forward and backward: what the final norm normalized."""

    def set_policy(self, policy: Policy | Callable[[int], Policy]) -> None:
        """One policy for all blocks, or a function of the block's index."""
        for index, block in enumerate(self.blocks):
            block.policy = policy if isinstance(policy, Policy) else policy(index)

    @property
    def dropout(self) -> bool:
        """Whether any adapter has dropout, so that training needs a seed."""
        return any(product.dropout_p for block in self.blocks for product in block.products)

    def prepare(self, index: int, ahead: Iterable[int] = ()) -> None:
        """Let block `index` find its weights; before its forward or backward.

        Args:
            ahead: the blocks that will be prepared next.
        """
        if self.weights is not None:
            self._give_back()
            handed = self.weights.hand(index, ahead)
            for product in self.blocks[index].products:
                product.handed = handed
            self._prepared = index

    def _give_back(self) -> None:
        """Take the weights from the block that was prepared last: whoever keeps them may want their memory back."""
        if self._prepared is not None:
            for product in self.blocks[self._prepared].products:
                product.handed = {}
            self._prepared = None

    def refresh(self) -> None:
        """Take the adapters' current values over; before the first forward after an update."""
        self.adapter.refresh()

    def forward(self, embedded_TH: Tensor, row: Row, *, for_backward: bool) -> Tensor:
        """Normalized hidden states [T, H].

        With `for_backward` the blocks' tensors are kept as their policies say until `backward` has used them.
        """
        residual, branch = embedded_TH, None
        upwards = range(len(self.blocks))
        for index, block in enumerate(self.blocks):
            self.prepare(index, chain(upwards[index + 1 :], upwards[::-1] if for_backward else upwards))
            kept = Kept()
            residual, branch = block.forward(residual, branch, row, kept, for_backward=for_backward)
            if for_backward:
                self._store.put(index, kept, block.policy)
        hidden_TH, last_TH = self.finish(residual, there(branch))
        self._last_TH = last_TH if for_backward else None
        return hidden_TH

    def abandon(self) -> None:
        """Let go of what a forward or backward that broke off has left, and of all scratch."""
        self._store.clear()
        self.workspace.clear()
        self._last_TH = None
        self._give_back()

    def finish(self, residual_TH: Tensor, branch_TH: Tensor) -> tuple[Tensor, Tensor]:
        """(normalized hidden states, what was normalized), both [T, H], from what the last block gives."""
        spec, last_TH = self.blocks[-1].spec, torch.empty_like(residual_TH)
        hidden_TH, _ = rms_norm(
            branch_TH,
            self.final_norm.weight,
            eps=spec.norm_eps,
            offset=spec.norm_offset,
            residual_TH=residual_TH,
            sum_out=last_TH,
        )
        return hidden_TH, last_TH

    def backward(self, dhidden_TH: Tensor, row: Row) -> None:
        """Add the adapters' gradients to their `.grad`, after a `forward` of the same row.

        Args:
            dhidden_TH: gradient of the normalized hidden states; overwritten.
        """
        spec, norm = self.blocks[-1].spec, self.final_norm
        last_TH, self._last_TH = there(self._last_TH), None
        scratch = self.workspace.get("branch", *last_TH.shape)
        _, rstd_T = rms_norm(last_TH, norm.weight, eps=spec.norm_eps, offset=spec.norm_offset, out=scratch)
        d_TH = rms_norm_backward(dhidden_TH, last_TH, norm.weight, rstd_T, offset=spec.norm_offset, out=dhidden_TH)
        del last_TH
        upwards = range(len(self.blocks))
        for index in reversed(upwards):
            self.prepare(index, chain(upwards[:index][::-1], upwards))
            kept = self._store.get(index)
            self._store.fetch(index - 1)
            backward(self.blocks[index], d_TH, row, kept, input_needs_gradient=index > 0)
