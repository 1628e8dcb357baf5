"""Who continues a model's prompts: blocks of our own where they can, transformers' `generate` where they can't.

Both choose tokens in the same way and stop at the same ones, so which of them it is shows in the time only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from quatrain.data import reply_end_ids
from quatrain.decoding import Decoder, Sampling
from quatrain.errors import ModelError
from quatrain.models.families import describe
from quatrain.models.streaming import streamed_weights
from quatrain.ops.linear_4bit import MOST_ROWS

OnToken = Callable[[int, int], object]
"""Told (row, token) for each new token."""


class Continuer(Protocol):
    """Continues prompts of tokens."""

    @property
    def max_batch(self) -> int:
        """Prompts that it takes at once."""
        ...

    def __call__(
        self, prompts: Sequence[Sequence[int]], on_token: OnToken | None = None, seed: int | None = None
    ) -> list[list[int]]:
        """The new tokens of each prompt; behind its end token a row may go on with padding.

        `seed` fixes what is drawn; None draws from PyTorch's own state.
        """
        ...


def continuer(
    model: Any, tokenizer: Any, *, batch_size: int, capacity: int, max_new_tokens: int, sampling: Sampling | None = None
) -> Continuer:
    """The fastest one that can continue `model`'s prompts.

    Args:
        batch_size: prompts to continue at once; our own blocks may take fewer.
        capacity: tokens of the longest prompt and its reply.
    """
    sampling = sampling or Sampling()
    ends = end_ids(model, tokenizer)
    try:
        decoder = _decoder_of(model, batch_size, capacity)
    except ModelError:
        return _ByTransformers(model, tokenizer, ends, batch_size, max_new_tokens, sampling)
    return _ByOwnBlocks(decoder, ends, max_new_tokens, sampling)


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """The base's end tokens and the template's."""
    stored = model.generation_config.eos_token_id
    return {*(stored if isinstance(stored, list) else [stored]), *reply_end_ids(tokenizer)} - {None}


def _decoder_of(model: Any, batch_size: int, capacity: int) -> Decoder:
    if not type(model).__module__.startswith("transformers."):
        # Code that ships with a checkpoint may call itself a Llama and compute something else.
        raise ModelError(f"{type(model).__name__} isn't one of transformers' own classes")
    if streamed_weights(model) is not None:
        raise ModelError("weights are streamed, and decoding on own blocks wants them resident")
    # A batch whose rows have adapters of their own can't be split.
    spec = describe(model, mixed=batch_size <= MOST_ROWS)
    return Decoder(
        spec.blocks,
        embedding=spec.embedding,
        final_norm=spec.final_norm,
        head=spec.head,
        tables=spec.tables,
        device=model.device,
        dtype=model.dtype,
        max_batch=min(batch_size, MOST_ROWS),
        capacity=capacity,
        logit_scale=spec.logit_scale,
        logit_softcap=spec.logit_softcap,
    )


class _ByOwnBlocks:
    def __init__(self, decoder: Decoder, ends: set[int], max_new_tokens: int, sampling: Sampling):
        self._decoder, self._ends, self._most, self._sampling = decoder, ends, max_new_tokens, sampling

    @property
    def max_batch(self) -> int:
        return self._decoder.max_batch

    def __call__(
        self, prompts: Sequence[Sequence[int]], on_token: OnToken | None = None, seed: int | None = None
    ) -> list[list[int]]:
        return self._decoder.generate(
            prompts,
            max_new_tokens=self._most,
            end_ids=self._ends,
            sampling=self._sampling,
            seed=seed,
            on_token=on_token,
        )


class _ByTransformers:
    def __init__(
        self, model: Any, tokenizer: Any, ends: set[int], max_batch: int, max_new_tokens: int, sampling: Sampling
    ):
        self._model, self._ends, self.max_batch = model, ends, max_batch
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
        self._settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
        if sampling.temperature > 0:
            self._settings |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[Sequence[int]], on_token: OnToken | None = None, seed: int | None = None
    ) -> list[list[int]]:
        """Prompts are padded on the left."""
        width, device = max(map(len, prompts)), self._model.device
        ids = torch.tensor([[self._pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        self._model.eval()
        streamer = None if on_token is None else _TokenStreamer(on_token)
        with _contiguous_head_input(self._model), self._own_settings(), _seeded(seed, device):
            out = self._model.generate(input_ids=ids, attention_mask=mask, streamer=streamer)
        return out[:, width:].tolist()

    @contextmanager
    def _own_settings(self) -> Iterator[None]:
        """Our own way of choosing tokens.

        transformers fills whatever a call leaves open from the model's `generation_config`, and what a base prefers for
        sampling (a repetition penalty, say) must not decide a measurement, so that config is replaced for the call.
        """
        from transformers import GenerationConfig

        before = self._model.generation_config
        ends = sorted(self._ends) or None
        config = GenerationConfig(eos_token_id=ends, pad_token_id=self._pad, **self._settings)
        self._model.generation_config = config
        try:
            yield
        finally:
            self._model.generation_config = before


class _TokenStreamer:
    """What `generate` calls with the prompt first and then with each token; it streams single prompts only."""

    def __init__(self, on_token: OnToken):
        self._on_token, self._saw_prompt = on_token, False

    def put(self, value: torch.Tensor) -> None:
        if self._saw_prompt:
            self._on_token(0, int(value))
        self._saw_prompt = True

    def end(self) -> None:
        pass


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Within it PyTorch draws from `seed`, as transformers can't be handed a generator; afterwards as if nothing had
    been drawn."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _contiguous_head_input(model: Any) -> Iterator[None]:
    """Models hand their head the last position of each prompt as a strided view [B, 1, H], for which torch's linear on
    a CPU copies the head's weight once a row: gigabytes for a batch of 50."""
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()
