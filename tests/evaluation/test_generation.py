"""Answers stop where the template ends a turn, and nothing that the base prefers for sampling leaks into them."""

from typing import Any

import pytest
import torch

from quatrain.data import render_prompt, reply_end_ids
from quatrain.errors import ModelError
from quatrain.evaluation import continuing, generate_answers, stream_reply
from quatrain.models import load_model
from tests.conftest import make_tokenizer


@pytest.fixture(scope="module")
def loaded(tiny_llama_dir):
    return load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")


def prompts(tokenizer, *texts: str) -> list[list[int]]:
    return [render_prompt([{"role": "user", "content": text}], tokenizer) for text in texts]


def test_batches_and_order_dont_change_answers(loaded):
    model, tokenizer = loaded
    asked = prompts(tokenizer, "one", "how many apples are there in the box", "fox", "a b c d e f g")
    alone = [generate_answers(model, tokenizer, [p], max_new_tokens=6)[0] for p in asked]
    seen = []
    together = generate_answers(
        model, tokenizer, asked, max_new_tokens=6, batch_size=3, progress=lambda *at: seen.append(at)
    )
    assert together == alone
    assert seen == [(3, 4), (4, 4)]


def test_the_streamed_reply_is_the_answer(loaded):
    model, tokenizer = loaded
    messages = [{"role": "user", "content": "the quick brown fox"}]
    pieces: list[str] = []
    reply = stream_reply(model, tokenizer, messages, pieces.append, max_new_tokens=8)
    assert "".join(pieces) == reply
    assert reply == generate_answers(model, tokenizer, [render_prompt(messages, tokenizer)], max_new_tokens=8)[0]


def test_the_bases_sampling_preferences_dont_count(loaded):
    model, tokenizer = loaded
    asked = prompts(tokenizer, "how many apples")
    plain = generate_answers(model, tokenizer, asked, max_new_tokens=8)
    before = model.generation_config
    preferring = type(before)(
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        do_sample=True,
        temperature=5.0,
        eos_token_id=before.eos_token_id,
    )
    model.generation_config = preferring
    try:
        assert generate_answers(model, tokenizer, asked, max_new_tokens=8) == plain
        assert model.generation_config is preferring
    finally:
        model.generation_config = before


def test_decoding_stops_at_the_templates_end_of_turn(loaded, monkeypatch):
    model, _ = loaded
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    end, other = tokenizer.encode("<|im_end|><|endoftext|>", add_special_tokens=False)
    assert reply_end_ids(tokenizer) == {end, other}
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: head)
    head, said = model.lm_head, []

    def always_end(_, inputs, logits):
        said.append(logits.shape[-1])
        return torch.nn.functional.one_hot(torch.full(logits.shape[:-1], end), logits.shape[-1]).float()

    handle = head.register_forward_hook(always_end)
    try:
        assert generate_answers(model, tokenizer, prompts(tokenizer, "hi"), max_new_tokens=50) == [""]
    finally:
        handle.remove()
    assert len(said) == 1


def refuse(_):
    raise ModelError("no blocks of our own")


def test_own_blocks_and_transformers_say_the_same(loaded, monkeypatch):
    model, tokenizer = loaded
    asked = prompts(tokenizer, "one", "how many apples are there in the box", "fox")
    messages = [{"role": "user", "content": "the quick brown fox"}]
    own: list[str] = []
    answers = generate_answers(model, tokenizer, asked, max_new_tokens=8)
    reply = stream_reply(model, tokenizer, messages, own.append, max_new_tokens=8)

    monkeypatch.setattr(continuing, "describe", refuse)
    theirs: list[str] = []
    assert generate_answers(model, tokenizer, asked, max_new_tokens=8) == answers
    assert stream_reply(model, tokenizer, messages, theirs.append, max_new_tokens=8) == reply
    assert theirs == own


def test_more_prompts_than_own_blocks_take_at_once(loaded, monkeypatch):
    model, tokenizer = loaded
    asked = prompts(tokenizer, *(f"{n} apples" for n in range(5)))
    expected = generate_answers(model, tokenizer, asked, max_new_tokens=4)
    monkeypatch.setattr(continuing, "MOST_ROWS", 2)
    assert generate_answers(model, tokenizer, asked, max_new_tokens=4, batch_size=50) == expected


def test_no_prompts_no_answers(loaded):
    model, tokenizer = loaded
    assert generate_answers(model, tokenizer, [], max_new_tokens=4) == []


def test_code_that_ships_with_a_checkpoint_generates_as_it_is(loaded, monkeypatch):
    model, tokenizer = loaded
    own: dict[str, Any] = {"batch_size": 2, "capacity": 8, "max_new_tokens": 2}
    assert isinstance(continuing.continuer(model, tokenizer, **own), continuing._ByOwnBlocks)
    monkeypatch.setattr(type(model), "__module__", "transformers_modules.somebody.modeling_llama")
    assert isinstance(continuing.continuer(model, tokenizer, **own), continuing._ByTransformers)
