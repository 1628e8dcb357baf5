"""The quantity that training minimizes: next-token cross-entropy, summed over a micro-batch's supervised tokens.

Two things make it cheap, and both depend on the architecture: the head runs in chunks on supervised tokens only
(instead of the model's own head on all of them), and packed samples are attended one by one (instead of under a mask).
Whether a model computes the same that way isn't looked up in a table: a handful of tokens is sent through both ways
once, and the cheap way is taken where the results agree. What was decided stands in `notes`.
"""

from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quatrain.errors import ModelError
from quatrain.models import attention
from quatrain.models.parts import body, head
from quatrain.ops.linear_cross_entropy import linear_cross_entropy

IGNORED = -100
# Two rows of one shape go through the same kernels, so what differs before a sample must not change it at all; the
# margin is for kernels that group tokens by value, as mixtures of experts do.
_LEAK = 1e-3


class Batch(Protocol):
    """What the objective reads from a micro-batch. B rows (1 when packed) of T tokens, S samples; all on the host."""

    @property
    def input_ids(self) -> Tensor:
        """[B, T] int64."""
        ...

    @property
    def targets(self) -> Tensor:
        """[B, T] int64: the token to predict from each position, -100 where none is."""
        ...

    @property
    def position_ids(self) -> Tensor:
        """[B, T] int64, from 0 in each sample."""
        ...

    @property
    def attention_mask(self) -> Tensor | None:
        """[B, T] with 1 for tokens and 0 for padding; None when packed."""
        ...

    @property
    def cu_seqlens(self) -> Tensor | None:
        """int32 [S + 1]: where each sample of a packed row begins, and the row's end; None when padded."""
        ...

    @property
    def longest(self) -> int:
        """No sample has more tokens."""
        ...


class Objective:
    """Callable that gives the summed loss of a micro-batch, differentiable with respect to the adapter.

    Args:
        model: a causal language model, adapted or not.
        packing: find out how packed rows can run; without it only padded batches are expected.

    Attributes:
        packs: whether packed rows run, each sample as if it were alone.
        notes: what was decided and why, a sentence each.
    """

    def __init__(self, model: nn.Module, *, packing: bool = True):
        self.model = model
        self.notes: list[str] = []
        self._body = body(model)
        self._takes_positions = "position_ids" in signature(self._body.forward).parameters
        self._standard_attention: str = model.config._attn_implementation  # pyright: ignore
        self._chunks_head = self._head_can_run_in_chunks()
        self._packed_attention = self._find_packed_attention() if packing else None

    @property
    def packs(self) -> bool:
        return self._packed_attention is not None

    @property
    def attention(self) -> str:
        """Name of the attention implementation that training runs with."""
        return self._packed_attention or self._standard_attention

    def __call__(self, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's supervised tokens, float32 scalar. Run inside :meth:`ready`."""
        device = next(self.model.parameters()).device
        inputs = self._inputs(batch, device)
        index = (batch.targets.view(-1) != IGNORED).nonzero().view(-1)
        targets = batch.targets.view(-1)[index].to(device, non_blocking=True)
        index = index.to(device, non_blocking=True)
        if not self._chunks_head:
            logits = self.model(**inputs).logits
            return F.cross_entropy(logits.flatten(0, 1)[index].float(), targets, reduction="sum")
        hidden = self._body(**inputs).last_hidden_state.flatten(0, 1)
        return self._head_loss(hidden.index_select(0, index), targets)

    def ready(self):
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
        scale, softcap = _logit_options(self.model)
        output: Any = head(self.model)
        bias = getattr(output, "bias", None)
        return linear_cross_entropy(
            hidden_NH, output.weight, targets_N, bias_V=bias, logit_scale=scale, softcap=softcap
        )

    @torch.no_grad()
    def _head_can_run_in_chunks(self) -> bool:
        row, targets = _probe_tokens(self.model, 9), _probe_tokens(self.model, 9, seed=1)[0]
        logits = self.model(input_ids=row, use_cache=False).logits[0].float()
        hidden = self._body(input_ids=row, use_cache=False).last_hidden_state[0]
        whole = F.cross_entropy(logits, targets, reduction="none")
        ours = torch.stack([self._head_loss(hidden[i : i + 1], targets[i : i + 1]) for i in range(len(targets))])
        same = torch.allclose(ours, whole, rtol=_tolerance(hidden.dtype))
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
        one, two = _probe_tokens(self.model, 5), _probe_tokens(self.model, 6, seed=1)
        inputs: dict = {"use_cache": False, "position_ids": torch.cat([torch.arange(n) for n in lengths])[None]}
        inputs["position_ids"] = inputs["position_ids"].to(one.device)
        if name == attention.NAME:
            inputs["packed_lengths"] = lengths
        alone = self._body(input_ids=two, use_cache=False).last_hidden_state[0].float()
        behind = []
        with attention.attention(self.model, name):
            for first in (one, _probe_tokens(self.model, 5, seed=2)):
                row = torch.cat([first, two], dim=1)
                hidden = self._body(input_ids=row, **inputs).last_hidden_state
                behind.append(hidden[0, 5:].float())
        leak = (behind[0] - behind[1]).norm() / alone.norm()
        error = (behind[0] - alone).norm() / alone.norm()
        return bool(leak <= _LEAK and error <= _tolerance(hidden.dtype))


def _probe_tokens(model: nn.Module, count: int, seed: int = 0) -> Tensor:
    """[1, count] token ids drawn over the whole vocabulary."""
    vocabulary = model.get_input_embeddings().num_embeddings  # pyright: ignore
    ids = torch.randint(0, vocabulary, (1, count), generator=torch.Generator().manual_seed(seed))
    return ids.to(next(model.parameters()).device)


def _tolerance(dtype: torch.dtype) -> float:
    """Relative error that rounding alone may cause over a deep model; a leak between samples exceeds it many times."""
    return 1e-4 if dtype == torch.float32 else 3e-2


def _logit_options(model: nn.Module) -> tuple[float, float | None]:
    """(factor, soft cap) on the logits under the names that transformers' configs use."""
    config = model.config.get_text_config()  # pyright: ignore
    scale = getattr(config, "logit_scale", None) or 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale /= divisor
    return scale, getattr(config, "final_logit_softcapping", None)
