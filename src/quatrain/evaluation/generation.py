"""Answers from a model: many at once for scoring, or one at a time as it is written, for a person."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from quatrain.data import Message, render_prompt, reply_end_ids


@torch.inference_mode()
def generate_answers(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Greedy continuations of token prompts, decoded without special tokens, in the order of `prompts`.

    Prompts are sorted by length, so that a batch pads little, and padded on the left.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    answers: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        texts = _continue_batch(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens)
        answers.update(zip(chosen, texts, strict=True))
        if progress:
            progress(len(answers), len(prompts))
    return [answers[i] for i in range(len(prompts))]


def _continue_batch(model: Any, tokenizer: Any, prompts: list[Sequence[int]], max_new_tokens: int) -> list[str]:
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    model.eval()
    own_settings = _own_settings(model, tokenizer, max_new_tokens=max_new_tokens, do_sample=False)
    with _contiguous_head_input(model), own_settings:
        out = model.generate(input_ids=ids, attention_mask=mask)
    return tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)


@contextmanager
def _contiguous_head_input(model: Any) -> Iterator[None]:
    """Models hand their head the last position of each prompt as a strided view [B, 1, H], for which torch's linear on
    a CPU copies the head's weight once a row: gigabytes for a batch of 50."""
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def stream_reply(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message],
    on_text: Callable[[str], None],
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> str:
    """The model's next turn; `on_text` gets it piece by piece as it is decoded. Temperature 0 is greedy.

    It is decoded in the caller's thread: in one beside it PyTorch would start a second set of computing threads.
    """
    from transformers import TextStreamer

    class Told(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            pieces.append(text)
            on_text(text)

    pieces: list[str] = []
    ids = torch.tensor([render_prompt(list(messages), tokenizer)], device=model.device)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    streamer = Told(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with _own_settings(model, tokenizer, max_new_tokens=max_new_tokens, **sampling):
        model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), streamer=streamer)
    return "".join(pieces)


@contextmanager
def _own_settings(model: Any, tokenizer: Any, **changes: Any) -> Iterator[None]:
    """The base's and the template's end tokens with our own way of choosing tokens.

    transformers fills whatever a call leaves open from the model's `generation_config`, and what a base prefers for
    sampling (a repetition penalty, say) must not decide a measurement, so that config is replaced for the call.
    """
    from transformers import GenerationConfig

    before = model.generation_config
    stored = before.eos_token_id
    ends = {*(stored if isinstance(stored, list) else [stored]), *reply_end_ids(tokenizer)} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    model.generation_config = GenerationConfig(eos_token_id=sorted(ends) or None, pad_token_id=pad, **changes)
    try:
        yield
    finally:
        model.generation_config = before
