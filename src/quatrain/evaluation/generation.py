"""Answers from a model: many at once for scoring, or one at a time as it is written, for a person."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from quatrain.adapters import adapter_layers
from quatrain.adapters.mixed import MixedLinear
from quatrain.data import Message, render_prompt
from quatrain.decoding import Sampling
from quatrain.errors import DataError
from quatrain.evaluation.continuing import continuer


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

    Raises:
        DataError: a prompt has a token that the base has no row for.
    """
    answers: dict[int, str] = {}
    for batch in answer_batches(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size):
        answers |= batch
        if progress:
            progress(len(answers), len(prompts))
    return [answers[number] for number in range(len(prompts))]


def answer_batches(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    sampling: Sampling | None = None,
    seed: int = 0,
    done: Collection[int] = (),
) -> Iterator[dict[int, str]]:
    """As :func:`generate_answers`, but each batch as soon as it is answered: number of the prompt → answer.

    Prompts are sorted by length, so that those of a batch have about the same; unless rows have adapters of their own.

    Args:
        sampling: how tokens are chosen; greedily if None.
        seed: of what is drawn, each batch for itself.
        done: prompts that have been answered. A batch in which all have is left out, one in which some have is answered
            whole, so that what is drawn doesn't depend on where an earlier process was stopped.
    """
    if not prompts:
        return
    _check_rows(model, tokenizer, prompts)
    capacity = max(map(len, prompts)) + max_new_tokens
    rows = min(batch_size, len(prompts))
    go_on = continuer(
        model, tokenizer, batch_size=rows, capacity=capacity, max_new_tokens=max_new_tokens, sampling=sampling
    )
    order = list(range(len(prompts)))
    if not any(isinstance(layer, MixedLinear) for layer in adapter_layers(model).values()):
        order.sort(key=lambda i: len(prompts[i]), reverse=True)
    for start in range(0, len(order), go_on.max_batch):
        chosen = order[start : start + go_on.max_batch]
        if all(number in done for number in chosen):
            continue
        tokens = go_on([prompts[number] for number in chosen], seed=seed + start)
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        yield dict(zip(chosen, texts, strict=True))


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
    prompt = render_prompt(list(messages), tokenizer)
    _check_rows(model, tokenizer, [prompt])
    go_on = continuer(
        model,
        tokenizer,
        batch_size=1,
        capacity=len(prompt) + max_new_tokens,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_p=top_p),
    )
    streamer = Told(tokenizer, skip_special_tokens=True)
    go_on([prompt], on_token=lambda _, token: streamer.put(torch.tensor([token])))
    streamer.end()
    return "".join(pieces)


def _check_rows(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> None:
    """A GPU that looks up a row that isn't there fails later and elsewhere, and takes the process with it."""
    rows = model.get_input_embeddings().num_embeddings
    beyond = max((token for prompt in prompts for token in prompt), default=0)
    if beyond >= rows:
        shown = tokenizer.convert_ids_to_tokens(beyond) or beyond
        raise DataError(f"the base's embedding has no row for {shown!r}, which stands in a prompt; leave it out.")
