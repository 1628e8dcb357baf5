"""Prompts in, tokens out.

The host asks for steps and looks at their tokens only now and then: waiting for each would leave the GPU idle while
Python thinks. Rows that have reached their end meanwhile go on; what they write is cut off.

Legend: B sequences, H hidden, V vocabulary.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from quatrain.blocks import BlockModules, BlockSpec, RotaryTables
from quatrain.blocks.block import DecoderBlock
from quatrain.blocks.workspace import Workspace
from quatrain.decoding.block import BlockStep
from quatrain.decoding.cache import Cache
from quatrain.decoding.prefill import prefill
from quatrain.decoding.recorded import RecordedStep
from quatrain.decoding.sampling import Sampling
from quatrain.errors import DataError
from quatrain.ops.linear_4bit import MOST_ROWS
from quatrain.ops.rms_norm import rms_norm

_STEPS_BETWEEN_LOOKS = 8

OnToken = Callable[[int, int], object]
"""Told (row, token) for each new token, in order for each row."""


class Decoder:
    """Continues token sequences with a model of the Llama family.

    Weights and adapters are read where they lie; an adapter that changes later isn't noticed.

    Args:
        blocks: spec and modules of each block, from first to last.
        embedding: int64 ids [...] → [..., H].
        final_norm: RMSNorm behind the last block.
        head: [..., H] → logits [..., V].
        tables: rotary tables.
        device, dtype: where and in what the blocks compute.
        max_batch: sequences decoded at once, at most `ops.linear_4bit.MOST_ROWS`.
        capacity: tokens that a sequence can have, its prompt included.
        logit_scale, logit_softcap: logits become softcap · tanh(scale · logits / softcap).

    Raises:
        ModelError: the model's rotary embedding doesn't reach `capacity` tokens.
    """

    @torch.inference_mode()
    def __init__(
        self,
        blocks: Sequence[tuple[BlockSpec, BlockModules]],
        *,
        embedding: nn.Module,
        final_norm: nn.Module,
        head: nn.Module,
        tables: RotaryTables,
        device: torch.device,
        dtype: torch.dtype,
        max_batch: int,
        capacity: int,
        logit_scale: float = 1.0,
        logit_softcap: float | None = None,
    ):
        if not 1 <= max_batch <= MOST_ROWS:
            raise DataError(
                f"max_batch must lie between 1 and {MOST_ROWS}, got {max_batch}. Decode in several batches."
            )
        workspace = Workspace(device, dtype)
        self.max_batch = max_batch
        self.cache = Cache([spec for spec, _ in blocks], max_batch, capacity, device, dtype)
        self._blocks = [DecoderBlock(*parts, index, workspace, tables) for index, parts in enumerate(blocks)]
        self._steps = [BlockStep(block, index, self.cache) for index, block in enumerate(self._blocks)]
        self._embedding, self._norm, self._head = embedding, final_norm, head
        self._scale, self._softcap = logit_scale, logit_softcap
        self._recorded: dict[int, RecordedStep] = {}

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        end_ids: Collection[int] = (),
        sampling: Sampling | None = None,
        seed: int | None = None,
        on_token: OnToken | None = None,
    ) -> list[list[int]]:
        """The new tokens of each prompt, up to and with the first of `end_ids`.

        Args:
            prompts: at most `max_batch`, none empty.
            seed: of what is drawn; None draws from PyTorch's own state.
            on_token: told each token soon after it is decoded.

        Raises:
            DataError: prompts that are empty, too many, or too long for the cache.
        """
        self._check(prompts, max_new_tokens)
        sampling = sampling or Sampling()
        replies = _Replies(len(prompts), max_new_tokens, end_ids, on_token)
        generator = None
        if seed is not None:
            generator = torch.Generator(self.cache.lengths.device).manual_seed(seed)
        step = self._step_of(len(prompts))
        logits_BV = self._logits(*prefill(self._blocks, self._embedding, prompts, self.cache))
        unseen: list[Tensor] = []
        while True:
            tokens_B = sampling.choose(logits_BV, generator)
            unseen.append(tokens_B)
            if len(unseen) == min(self._steps_between_looks, replies.left):
                replies.take(torch.stack(unseen, dim=1).tolist())
                unseen.clear()
            if replies.done:
                return replies.tokens
            logits_BV = step(tokens_B)

    @property
    def _steps_between_looks(self) -> int:
        return _STEPS_BETWEEN_LOOKS if self.cache.lengths.is_cuda else 1

    def _step(self, tokens_B: Tensor) -> Tensor:
        """Logits [B, V] behind one more token of each sequence."""
        residual_BH, branch_BH = self._embedding(tokens_B), None
        for block in self._steps:
            residual_BH, branch_BH = block(residual_BH, branch_BH)
        assert branch_BH is not None, "a model has blocks"
        logits_BV = self._logits(residual_BH, branch_BH)
        self.cache.lengths[: len(tokens_B)] += 1
        return logits_BV

    def _step_of(self, rows: int) -> Callable[[Tensor], Tensor]:
        """The step for so many sequences, recorded where that is possible."""
        if not self.cache.lengths.is_cuda:
            return self._step
        if rows not in self._recorded:
            self._recorded[rows] = RecordedStep(self._step, rows, self.cache.lengths)
        return self._recorded[rows]

    def _logits(self, residual_BH: Tensor, branch_BH: Tensor) -> Tensor:
        spec, sum_BH = self._steps[-1].spec, torch.empty_like(residual_BH)
        hidden_BH, _ = rms_norm(
            branch_BH,
            self._norm.weight,  # pyright: ignore[reportArgumentType]
            eps=spec.norm_eps,
            offset=spec.norm_offset,
            residual_TH=residual_BH,
            sum_out=sum_BH,
        )
        logits_BV = self._head(hidden_BH)
        if self._scale != 1.0:
            logits_BV = logits_BV * self._scale
        if self._softcap is not None:
            logits_BV = self._softcap * torch.tanh(logits_BV / self._softcap)
        return logits_BV

    def _check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        if not 1 <= len(prompts) <= self.max_batch:
            raise DataError(f"there must be 1 to {self.max_batch} prompts, got {len(prompts)}. Decode in batches.")
        named = {len(p.own_BR) for block in self._blocks for p in block.products if p.own_BR is not None}
        if named - {len(prompts)}:
            raise DataError(
                f"adapters were chosen for {min(named)} rows, got {len(prompts)} prompts. Name one for each."
            )
        if max_new_tokens < 1 or not all(prompts):
            raise DataError("prompts must have tokens and max_new_tokens must be at least 1. There is nothing to do.")
        longest = max(map(len, prompts))
        if longest + max_new_tokens > self.cache.capacity:
            raise DataError(
                f"a prompt and its reply must fit into {self.cache.capacity} tokens, got {longest} and "
                f"{max_new_tokens}. Make a decoder with more capacity."
            )


class _Replies:
    """What has been decoded so far, cut off at each row's end."""

    def __init__(self, rows: int, most: int, end_ids: Collection[int], on_token: OnToken | None):
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.left = most
        """Tokens that a row that is still open may get."""
        self._open = set(range(rows))
        self._ends, self._on_token = frozenset(end_ids), on_token

    @property
    def done(self) -> bool:
        """Whether every row has reached its end or has all that it may get."""
        return not self._open or not self.left

    def take(self, new: list[list[int]]) -> None:
        """Add each row's next tokens, as many for every row."""
        self.left -= len(new[0])
        for row in sorted(self._open):
            for token in new[row]:
                self.tokens[row].append(token)
                if self._on_token is not None:
                    self._on_token(row, token)
                if token in self._ends:
                    self._open.discard(row)
                    break
