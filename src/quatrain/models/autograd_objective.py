"""The training objective of any causal language model, through its own modules and autograd.

Two things make it cheap, and both depend on the architecture: the head runs in chunks on supervised tokens only
(instead of the model's own head on all of them), and packed samples are attended one by one (instead of under a mask).
Whether a model computes the same that way isn't looked up in a table: a handful of tokens is sent through both ways
once, and the cheap way is taken where the results agree. What was decided stands in `notes`.
"""

from collections.abc import Iterator
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quatrain.errors import ModelError
from quatrain.models import attention
from quatrain.models.families import logit_options
from quatrain.models.logits import chunks_of_logits
from quatrain.models.micro_batch import IGNORED, Batch
from quatrain.models.parts import body, head
from quatrain.models.probes import probe_tokens, tolerance
from quatrain.ops.linear_cross_entropy import linear_cross_entropy

# Two rows of one shape go through the same kernels, so what differs before a sample must not change it at all; the
# margin is for kernels that group tokens by value, as mixtures of experts do.
_LEAK = 1e-3


class AutogradObjective:
    """The loss of micro-batches, and its gradient with respect to the adapter, by backpropagation through the model.

    Args:
        model: a causal language model, adapted or not.
        packing: find out how packed rows can run; without it only padded batches are expected.

    Attributes:
        chunks_head: whether the head is nothing but a product, so that it runs on supervised tokens only.
        packs: whether packed rows run, each sample as if it were alone.
        notes: what was decided and why, a sentence each.
    """

    def __init__(self, model: nn.Module, *, packing: bool = True):
        self.model = model
        self.notes: list[str] = []
        self._body = body(model)
        self._takes_positions = "position_ids" in signature(self._body.forward).parameters
        self._standard_attention: str = model.config._attn_implementation  # pyright: ignore
        self.chunks_head = self._head_can_run_in_chunks()
        self._packed_attention = self._find_packed_attention() if packing else None

    @property
    def packs(self) -> bool:
        return self._packed_attention is not None

    @property
    def attention(self) -> str:
        """Name of the attention implementation that training runs with."""
        return self._packed_attention or self._standard_attention

    @torch.no_grad()
    def loss(self, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's supervised tokens, float32 scalar."""
        with self._attending():
            return self._forward(batch)

    @torch.no_grad()
    def logits(self, batch: Batch) -> Iterator[Tensor]:
        """Those of the supervised tokens, [C, V] in float32, a chunk of tokens at a time."""
        device = next(self.model.parameters()).device
        index = (batch.targets.view(-1) != IGNORED).nonzero().view(-1).to(device, non_blocking=True)
        with self._attending():
            if not self.chunks_head:
                return iter([self.model(**self._inputs(batch, device)).logits.flatten(0, 1)[index].float()])
            hidden_NH = self._body(**self._inputs(batch, device)).last_hidden_state.flatten(0, 1)[index]
        return chunks_of_logits(hidden_NH, head(self.model), *logit_options(self.model))

    def accumulate(self, batch: Batch) -> Tensor:
        """As `loss`, and add its gradient to each adapter parameter's `.grad`."""
        with self._attending():
            loss = self._forward(batch)
            # Checkpointed blocks run again in here, with the attention that they ran with before.
            loss.backward()
        return loss.detach()

    def _forward(self, batch: Batch) -> Tensor:
        device = next(self.model.parameters()).device
        inputs = self._inputs(batch, device)
        index = (batch.targets.view(-1) != IGNORED).nonzero().view(-1)
        targets = batch.targets.view(-1)[index].to(device, non_blocking=True)
        index = index.to(device, non_blocking=True)
        if not self.chunks_head:
            logits = self.model(**inputs).logits
            return F.cross_entropy(logits.flatten(0, 1)[index].float(), targets, reduction="sum")
        hidden = self._body(**inputs).last_hidden_state.flatten(0, 1)
        return self._head_loss(hidden.index_select(0, index), targets)

    def _attending(self):
        """Context in which forward and backward run, with the attention that was chosen."""
        return attention.attention(self.model, self.attention)

    def _inputs(self, batch: Batch, device: torch.device) -> dict:
        inputs: dict = {"input_ids": batch.input_ids.to(device, non_blocking=True), "use_cache": False}
        if self._takes_positions:
            inputs["position_ids"] = batch.position_ids.to(device, non_blocking=True)
        if batch.attention_mask is not None:
            inputs["attention_mask"] = batch.attention_mask.to(device, non_blocking=True)
        elif batch.cu_seqlens is not None and self._packed_attention == attention.NAME:
            inputs["packed_lengths"] = tuple(batch.cu_seqlens.diff().tolist())
        return inputs

    def _head_loss(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        scale, softcap = logit_options(self.model)
        output: Any = head(self.model)
        bias = getattr(output, "bias", None)
        return linear_cross_entropy(
            hidden_NH, output.weight, targets_N, bias_V=bias, logit_scale=scale, softcap=softcap
        )

    @torch.no_grad()
    def _head_can_run_in_chunks(self) -> bool:
        if any(parameter.requires_grad for parameter in head(self.model).parameters()):
            self.notes.append("the head is trained: the model's own head runs, with its whole logits")
            return False
        row, targets = probe_tokens(self.model, 9), probe_tokens(self.model, 9, seed=1)[0]
        logits = self.model(input_ids=row, use_cache=False).logits[0].float()
        hidden = self._body(input_ids=row, use_cache=False).last_hidden_state[0]
        whole = F.cross_entropy(logits, targets, reduction="none")
        ours = torch.stack([self._head_loss(hidden[i : i + 1], targets[i : i + 1]) for i in range(len(targets))])
        same = torch.allclose(ours, whole, rtol=tolerance(hidden.dtype))
        if not same:
            self.notes.append("the head does more than a product: the model's own head runs, with its whole logits")
        return same

    def _find_packed_attention(self) -> str | None:
        if not self._takes_positions:
            self.notes.append(f"{type(self._body).__name__} takes no positions: samples can't share a row")
            return None
        reasons = []
        for name in (attention.NAME, self._standard_attention):
            try:
                if self._isolates(name):
                    return name
                reasons.append(f"{name}: samples see one another")
            except (ModelError, TypeError, ValueError) as error:
                reasons.append(f"{name}: {error}")
        self.notes.append(f"packed rows don't run on this model ({'; '.join(reasons)}): batches are padded instead")
        return None

    @torch.no_grad()
    def _isolates(self, name: str) -> bool:
        """Does a sample behind another in a row come out as it does alone, whatever the other one is?"""
        lengths = (5, 6)
        one, two = probe_tokens(self.model, 5), probe_tokens(self.model, 6, seed=1)
        inputs: dict = {"use_cache": False, "position_ids": torch.cat([torch.arange(n) for n in lengths])[None]}
        inputs["position_ids"] = inputs["position_ids"].to(one.device)
        if name == attention.NAME:
            inputs["packed_lengths"] = lengths
        alone = self._body(input_ids=two, use_cache=False).last_hidden_state[0].float()
        behind = []
        with attention.attention(self.model, name):
            for first in (one, probe_tokens(self.model, 5, seed=2)):
                row = torch.cat([first, two], dim=1)
                hidden = self._body(input_ids=row, **inputs).last_hidden_state
                behind.append(hidden[0, 5:].float())
        leak = (behind[0] - behind[1]).norm() / alone.norm()
        error = (behind[0] - alone).norm() / alone.norm()
        return bool(leak <= _LEAK and error <= tolerance(hidden.dtype))
