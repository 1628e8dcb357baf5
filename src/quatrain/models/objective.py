"""The quantity that training minimizes: next-token cross-entropy, summed over a micro-batch's supervised tokens.

There are two ways to it. Models of the Llama family run on blocks of our own (`engine.py`), made for GPUs;
every model runs through its own modules and autograd (`autograd_objective.py`). Which one computes a model is
decided once, by sending a few tokens through both, and said in `notes`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from quatrain.blocks import KEEP_ALL, OFFLOAD_ATTENTION, FusedBlocks, Policy
from quatrain.errors import ModelError
from quatrain.models.agreement import check_agreement
from quatrain.models.autograd_objective import AutogradObjective
from quatrain.models.engine import Engine
from quatrain.models.micro_batch import Batch


class Objective:
    """The loss of micro-batches, and its gradient with respect to the adapter.

    Args:
        model: a causal language model with the adapters that are to be trained.
        packing: expect packed rows; without it only padded batches.
        fused_blocks: compute with blocks of our own: where the model has them and they agree with it ("on"), on GPUs
            only, since CPUs gain nothing ("auto"), or never ("off").
        policy: what our own blocks keep for their backward.

    Attributes:
        packs: whether packed rows run, each sample as if it were alone.
        notes: what was decided and why, a sentence each; it grows while training.
        engine: what runs our own blocks; None if the model's are used.

    Raises:
        ModelError: with "on", why the model can't be computed by our own blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        packing: bool = True,
        fused_blocks: FusedBlocks = "auto",
        policy: Policy = KEEP_ALL,
    ):
        self.model = model
        self.notes: list[str] = []
        self.engine = self._make_engine(fused_blocks, policy)
        through_model = AutogradObjective(model, packing=packing) if self.engine is None else None
        if through_model is not None:
            self.notes += through_model.notes
        self.packs: bool = packing if through_model is None else through_model.packs
        self._way: Engine | AutogradObjective = self.engine or through_model  # pyright: ignore

    @property
    def wants_fixed_tokens(self) -> bool:
        """Whether every packed row had better have the same number of tokens: on a GPU, where a new shape costs more
        than the places that stay empty."""
        return self.engine is not None and self.engine.device.type == "cuda"

    def keep(self, policy: Policy | Sequence[Policy], head_chunk: int | None = None) -> None:
        """Let our own blocks keep what `policy` says, one for all or for each its own, and the head have the logits of
        `head_chunk` tokens at once; None: of as many as fill the device."""
        assert self.engine is not None
        self.engine.head_chunk = head_chunk
        self.engine.set_policy(policy if isinstance(policy, Policy) else policy.__getitem__)

    def keep_less(self) -> Policy | None:
        """Let our own blocks keep the least on the device. → what that is, None if they do already or aren't there."""
        if self.engine is None or all(block.policy == OFFLOAD_ATTENTION for block in self.engine.stack.blocks):
            return None
        self.engine.set_policy(OFFLOAD_ATTENTION)
        return OFFLOAD_ATTENTION

    def abandon(self) -> None:
        """Let go of what an `accumulate` that broke off has left on the device."""
        if self.engine is not None:
            self.engine.abandon()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def loss(self, batch: Batch) -> Tensor:
        """Sum of the loss over the batch's supervised tokens, float32 scalar, without a gradient."""
        return self._way.loss(batch)

    def logits(self, batch: Batch) -> Iterator[Tensor]:
        """What the model says at the supervised tokens of `batch`, in their order: [C, V] in float32, a chunk of tokens
        at a time, because those of long samples wouldn't fit into memory together. Without a gradient."""
        return self._way.logits(batch)

    def accumulate(self, batch: Batch) -> Tensor:
        """As `loss`, and add its gradient to each adapter parameter's `.grad`."""
        return self._way.accumulate(batch)

    def _make_engine(self, wanted: FusedBlocks, policy: Policy) -> Engine | None:
        on_gpu = next(self.model.parameters()).is_cuda
        if wanted == "off" or (wanted == "auto" and not on_gpu):
            return None
        try:
            engine = Engine(self.model, self.notes.append)
            check_agreement(engine)
        except ModelError as error:
            if wanted == "on":
                raise
            self.notes.append(f"the model's own blocks are used: {error}")
            return None
        engine.set_policy(policy)
        return engine
