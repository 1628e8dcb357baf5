"""Answers stop where the template ends a turn, and nothing that the base prefers for sampling leaks into them."""

from typing import Any

import pytest
import torch

from quatrain.adapters import AdapterSet, LoraConfig, adapter_parameters, attach_lora, detach_lora, save_adapter
from quatrain.data import render_prompt, reply_end_ids
from quatrain.decoding import Sampling
from quatrain.errors import AdapterError, DataError, ModelError
from quatrain.evaluation import continuing, generate_answers, stream_reply
from quatrain.evaluation.generation import answer_batches
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


def refuse(*arguments, **settings):
    raise ModelError("not this way")


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


@pytest.fixture(scope="module")
def several(tiny_llama_dir, tmp_path_factory):
    """Two adapters of different ranks and layers on a base of their own."""
    adapters = AdapterSet(load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")[0])
    for name, settings in {"one": {"r": 3}, "two": {"r": 5, "target_modules": ["q_proj", "down_proj"]}}.items():
        attach_lora(adapters.model, LoraConfig(**settings))
        for parameter in adapter_parameters(adapters.model).values():
            torch.nn.init.normal_(parameter, std=0.3)
        folder = save_adapter(adapters.model, tmp_path_factory.mktemp(name))
        detach_lora(adapters.model)
        adapters.load_adapter(folder, name)
    return adapters


@pytest.mark.parametrize("own", [True, False])
def test_rows_with_adapters_of_their_own_answer_as_each_alone(several, tokenizer, monkeypatch, own):
    asked = prompts(tokenizer, "one", "how many apples are there in the box", "fox", "the lazy dog")
    names = ["two", None, "one", "two"]
    expected = []
    for prompt, name in zip(asked, names, strict=True):
        several.set_adapter(name)
        expected += generate_answers(several.model, tokenizer, [prompt], max_new_tokens=6)
    several.set_adapter(None)
    plain = generate_answers(several.model, tokenizer, asked, max_new_tokens=6)
    assert len({tuple(expected), tuple(plain)}) == 2, "the adapters say something else than the base"
    monkeypatch.setattr(continuing, "_ByTransformers" if own else "Decoder", refuse)
    with several.per_row(names) as model:
        assert generate_answers(model, tokenizer, asked, max_new_tokens=6) == expected
        with pytest.raises((DataError, AdapterError), match=r"chosen for 4 rows.*3"):
            generate_answers(model, tokenizer, asked[:3], max_new_tokens=6)


def test_a_batch_too_large_for_own_blocks_stays_whole(several, tokenizer):
    asked = prompts(tokenizer, *["fox"] * 20)
    with several.per_row([None] * 19 + ["one"]) as model:
        answers = generate_answers(model, tokenizer, asked, max_new_tokens=4)
    several.set_adapter("one")
    assert answers[19:] == generate_answers(several.model, tokenizer, asked[:1], max_new_tokens=4)
    assert len(set(answers[:19])) == 1


@pytest.mark.parametrize("own", [True, False])
def test_what_is_drawn_depends_on_the_seed_and_not_on_what_was_answered_before(loaded, monkeypatch, own):
    model, tokenizer = loaded
    monkeypatch.setattr(continuing, "_ByTransformers" if own else "Decoder", refuse)
    asked = prompts(tokenizer, "one", "how many apples are there in the box", "fox", "a b c d e f g")
    how = {"max_new_tokens": 6, "batch_size": 2, "sampling": Sampling(temperature=1.5)}
    first, second = answer_batches(model, tokenizer, asked, seed=3, **how)
    state = torch.get_rng_state()
    assert list(answer_batches(model, tokenizer, asked, seed=3, done=first, **how)) == [second]
    half = [*first, *list(second)[:1]]
    assert list(answer_batches(model, tokenizer, asked, seed=3, done=half, **how)) == [second]
    assert list(answer_batches(model, tokenizer, asked, seed=4, **how)) != [first, second]
    assert torch.equal(torch.get_rng_state(), state)
