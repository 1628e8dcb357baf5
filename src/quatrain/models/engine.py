"""The training step on blocks that we own: loss and adapter gradients of a micro-batch, without autograd.

    ids ─► embedding ─► blocks ─► final norm ─► head and loss, with their gradient ─► blocks backward

The head sees supervised tokens only and makes its gradient at once, so the whole logits never exist. Nothing waits for
the device: sizes that depend on the data (how many tokens are supervised) are known on the host already.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from quatrain.adapters import adapter_layers
from quatrain.blocks import BlockStack, Policy, Row
from quatrain.errors import ModelError
from quatrain.models.families import ModelSpec, adapted_linears, describe
from quatrain.models.logits import chunks_of_logits
from quatrain.models.micro_batch import IGNORED, Batch
from quatrain.models.recording import Recorder
from quatrain.models.streaming import streamed_weights
from quatrain.ops.block_attention import Segments
from quatrain.ops.linear_cross_entropy import linear_cross_entropy_with_gradient

_FEWEST_SLOTS = 64


class Engine:
    """Runs a causal language model of the Llama family, adapted or not.

    Args:
        model: its modules, with whatever adapters they carry now, are read once; attach or detach, and the engine has
            to be made anew. The adapters' parameters become views of one buffer.
        note: told what is decided while training, such as whether the blocks run as CUDA graphs.

    Raises:
        ModelError: the model has something that the blocks don't compute.
    """

    def __init__(self, model: nn.Module, note: Callable[[str], object] = lambda _: None):
        self.model = model
        self.spec: ModelSpec = describe(model)
        _check_adapters(model, self.spec)
        self.device: torch.device = self.spec.final_norm.weight.device  # pyright: ignore
        dtype: torch.dtype = model.dtype  # pyright: ignore
        spec, weights = self.spec, streamed_weights(model)
        if weights is not None:
            weights.forget()
        self.stack = BlockStack(spec.blocks, spec.final_norm, spec.tables, self.device, dtype, weights)
        self.recorder = Recorder(self.stack, self.spec.embedding, note)
        self.head_chunk: int | None = None
        """Supervised tokens whose logits may exist at once; None: as many as fill the device."""
        self._seed = torch.zeros(1, dtype=torch.int64, device=self.device)

    def set_policy(self, policy: Policy | Callable[[int], Policy]) -> None:
        """What blocks keep for their backward: all the same, or by the block's index."""
        self.stack.set_policy(policy)

    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states behind the final norm, [T, H], rows of padded batches one after the other."""
        self.stack.refresh()
        embedded_TH = self.spec.embedding(self._ids(batch))
        return self.stack.forward(embedded_TH, self._row(batch), for_backward=False)

    @torch.no_grad()
    def loss(self, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's supervised tokens, float32 scalar."""
        return self._head(self.hidden(batch), batch, None)

    def logits(self, batch: Batch) -> Iterator[Tensor]:
        """Those of the supervised tokens, [C, V] in float32, a chunk of tokens at a time."""
        index = (batch.targets.view(-1) != IGNORED).nonzero().view(-1).to(self.device, non_blocking=True)
        hidden_NH = self.hidden(batch).index_select(0, index)
        return chunks_of_logits(hidden_NH, self.spec.head, self.spec.logit_scale, self.spec.logit_softcap)

    @torch.no_grad()
    def accumulate(self, batch: Batch) -> Tensor:
        """As `loss`, and add its gradient to each adapter parameter's `.grad`."""
        self.stack.adapter.attach_gradients()
        ids, row = self._ids(batch), self._row(batch)
        if recorded := self.recorder.recording_of(ids, row):
            hidden_TH = recorded.forward(ids, row)
            loss = self._head(hidden_TH, batch, recorded.dhidden.zero_())
            recorded.backward()
            return loss
        try:
            return self._through_blocks(ids, row, batch)
        except BaseException:
            # Who catches it and goes on needs the memory that the blocks have kept for a backward.
            self.stack.abandon()
            raise

    def _through_blocks(self, ids: Tensor, row: Row, batch: Batch) -> Tensor:
        self.stack.refresh()
        with self.recorder.watch(ids, row):
            hidden_TH = self.stack.forward(self.spec.embedding(ids), row, for_backward=True)
        dhidden_TH = torch.zeros_like(hidden_TH)
        loss = self._head(hidden_TH, batch, dhidden_TH)
        # Long rows' hidden states are gigabytes: nothing that is done with lives on into the backward.
        del hidden_TH
        self.stack.backward(dhidden_TH, row)
        return loss

    def abandon(self) -> None:
        """Let go of what an `accumulate` that broke off has left; gradients are the caller's."""
        self.recorder.forget()
        self.stack.abandon()

    def _ids(self, batch: Batch) -> Tensor:
        return batch.input_ids.view(-1).to(self.device, non_blocking=True)

    def _row(self, batch: Batch) -> Row:
        seed = None
        if self.model.training and self.stack.dropout:
            seed = self._seed.copy_(torch.randint(1 << 62, (1,)), non_blocking=True)
        positions = batch.position_ids.reshape(-1).to(self.device, non_blocking=True)
        return Row(positions, Segments(ends_of(batch).to(self.device, non_blocking=True), batch.longest), seed)

    def _head(self, hidden_TH: Tensor, batch: Batch, dhidden_TH: Tensor | None) -> Tensor:
        """The loss; the gradient of hidden states goes to `dhidden_TH`, which holds zeros."""
        targets = batch.targets.view(-1)
        index = (targets != IGNORED).nonzero().view(-1)
        targets = targets[index].to(self.device, non_blocking=True)
        index = index.to(self.device, non_blocking=True)
        head: Any = self.spec.head
        loss, gradient = linear_cross_entropy_with_gradient(
            hidden_TH.index_select(0, index),
            head.weight,
            targets,
            bias_V=getattr(head, "bias", None),
            logit_scale=self.spec.logit_scale,
            softcap=self.spec.logit_softcap,
            most_rows=self.head_chunk,
        )
        if dhidden_TH is not None:
            dhidden_TH.index_copy_(0, index, gradient)
        return loss


def ends_of(batch: Batch) -> Tensor:
    """int32 [S + 1] on the host: 0 and the end of each sample, padded ones (a row each) included.

    S is a power of two, so that shapes seldom change; slots after the last sample repeat its end.
    """
    rows, tokens = batch.input_ids.shape
    ends = batch.cu_seqlens
    if ends is None:
        ends = torch.arange(0, (rows + 1) * tokens, tokens, dtype=torch.int32)
    slots = max(_FEWEST_SLOTS, 1 << (len(ends) - 2).bit_length())
    return torch.cat([ends, ends[-1:].expand(slots + 1 - len(ends))])


def _check_adapters(model: nn.Module, spec: ModelSpec) -> None:
    inside = set(adapted_linears(spec))
    outside = [name for name, layer in adapter_layers(model).items() if layer not in inside]
    if outside:
        raise ModelError(f"{outside[0]} carries an adapter, but lies outside of the blocks")
    rates = {linear.lora_dropout for linear in inside}
    if len(rates) > 1:
        raise ModelError(f"adapters have different dropout rates: {sorted(rates)}")
