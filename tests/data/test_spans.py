"""The loss falls on what the assistant wrote, in every manner of chat template that is around."""

import pytest
from transformers import BatchEncoding

from quatrain.data import Conversation, Renderer, render_prompt
from quatrain.errors import DataError
from tests.data import families as fam
from tests.data.families import assistant, system, user

# The first answer occurs in both of the user's turns, the second holds line ends, spaces and letters of several bytes.
CHAT = [user("say 12 + 7"), assistant("12 + 7"), user("12 + 7, again?"), assistant("the fox\n\n über 🦊  jumps")]
LAST = "the fox\n\n über 🦊  jumps"


def sample_of(tokenizer, messages, **options):
    renderer = Renderer(tokenizer, **options)
    return renderer.encode([renderer.render(Conversation(tuple(messages)))])[0]


def learned(tokenizer, messages, **options) -> list[str]:
    """The decoded runs of learned tokens."""
    sample = sample_of(tokenizer, messages, **options)
    runs, before = [], False
    for token, flag in zip(sample.input_ids.tolist(), sample.supervised.tolist(), strict=True):
        if flag:
            runs[len(runs) if not before else len(runs) - 1 :] = [[*(runs[-1] if before else []), token]]
        before = flag
    return [tokenizer.decode(run) for run in runs]


FAMILIES = {
    "chatml": (fam.CHATML, "<|im_end|>"),
    "default system": (fam.DEFAULT_SYSTEM, "<|im_end|>"),
    "llama 3": (fam.LLAMA3, "<|eot_id|>"),
    "gemma": (fam.GEMMA, "<end_of_turn>"),
    "phi 3": (fam.PHI3, "<|end|>"),
    "marked": (fam.MARKED, "<|im_end|>"),
    "marked without the closing": (fam.MARKED_CONTENT_ONLY, "<|im_end|>"),
    "only prompts think": (fam.THINKING_PROMPT, "<|im_end|>"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_replies_and_their_closing_are_learned(name):
    template, closing = FAMILIES[name]
    tokenizer = fam.make_tokenizer(template)
    assert learned(tokenizer, CHAT) == [f"12 + 7{closing}", LAST + closing]


@pytest.mark.parametrize("sentencepiece", [False, True])
@pytest.mark.parametrize("template", [fam.LLAMA2, fam.MISTRAL])
@pytest.mark.parametrize("first", [[], [system("be a fox")]])
def test_inst_templates(template, sentencepiece, first):
    tokenizer = fam.make_tokenizer(template, sentencepiece=sentencepiece)
    chat = [*first, user("say fox"), assistant("fox"), user("fox, over?"), assistant("the lazy dog")]
    runs = [run.replace(" ", "") for run in learned(tokenizer, chat)]
    assert runs == ["fox</s>", "thelazydog</s>"]
    # The space that the template writes before the content must be generated, so it is learned.
    assert learned(fam.make_tokenizer(template), chat)[0].startswith(" fox")


ALL = {name: template for name, template in vars(fam).items() if name[0].isupper() and "{% for" in str(template)}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sentencepiece", [False, True])
def test_tokens_are_those_of_apply_chat_template(name, sentencepiece):
    tokenizer = fam.make_tokenizer(ALL[name], sentencepiece=sentencepiece)
    theirs = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    ours = sample_of(tokenizer, CHAT).input_ids.tolist()
    appended = [tokenizer.eos_token_id] if name in ("OPEN_END", "NO_CLOSING") else []
    assert ours == [*theirs, *appended]
    assert ours[:2].count(tokenizer.bos_token_id) <= 1


@pytest.mark.parametrize("name", sorted(set(ALL) - {"THINKING_PROMPT"}))
@pytest.mark.parametrize("sentencepiece", [False, True])
def test_the_prompt_begins_the_training_tokens(name, sentencepiece):
    tokenizer = fam.make_tokenizer(ALL[name], sentencepiece=sentencepiece)
    chat = CHAT[:2]
    prompt, sample = render_prompt(chat[:1], tokenizer), sample_of(tokenizer, chat)
    assert prompt == sample.input_ids[: len(prompt)].tolist()
    assert not sample.supervised[: len(prompt)].any()
    assert sample.supervised[len(prompt)]
    assert Renderer(tokenizer).prompt_ids(Conversation(tuple(chat))) == prompt


def test_marks_agree_with_transformers_mask():
    tokenizer = fam.make_tokenizer(fam.MARKED)
    encoded = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    assert isinstance(encoded, BatchEncoding)
    theirs = encoded["assistant_masks"]
    assert isinstance(theirs, list)
    assert sample_of(tokenizer, CHAT).supervised.tolist() == [bool(flag) for flag in theirs]


def test_marks_that_end_in_a_line_end_stay_within_the_turn():
    assert learned(fam.make_tokenizer(fam.MARKED_WITH_NEWLINE), CHAT) == ["12 + 7<|im_end|>\n", LAST + "<|im_end|>\n"]


def test_thinking_is_learned_in_the_last_turn_only_where_the_template_keeps_it():
    tokenizer = fam.make_tokenizer(fam.QWEN3)
    chat = [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("<think>\nwell\n</think>\n\nd")]
    assert learned(tokenizer, chat) == ["b<|im_end|>", "<think>\nwell\n</think>\n\nd<|im_end|>"]
    # An empty thinking block that the template adds must be generated as well.
    assert learned(tokenizer, CHAT)[1] == f"<think>\n\n</think>\n\n{LAST}<|im_end|>"


def test_tool_calls_are_learned_with_the_end_of_turn():
    call = {"name": "add", "arguments": {"a": 12}}
    chat = [user("12 + 7"), assistant("", tool_calls=[call]), {"role": "tool", "content": "19"}, assistant("19")]
    first, second = learned(fam.make_tokenizer(fam.QWEN3), chat)
    assert first.endswith("</tool_call><|im_end|>") and '"name": "add"' in first
    assert second.endswith("19<|im_end|>")


def test_templates_that_leave_the_end_open_get_the_eos():
    assert learned(fam.make_tokenizer(fam.OPEN_END), CHAT) == ["12 + 7<|im_end|>", LAST + "</s>"]
    assert learned(fam.make_tokenizer(fam.NO_CLOSING), CHAT) == ["12 + 7<|user|>", LAST + "</s>"]


def test_closings_of_two_tokens_and_of_the_last_turn_alone():
    two = fam.CHATML.replace("<|im_end|>\n{% endfor", "<|end|><|im_end|>{% endfor")
    assert learned(fam.make_tokenizer(two), CHAT) == ["12 + 7<|end|><|im_end|>", LAST + "<|end|><|im_end|>"]
    own = fam.CHATML.replace("<|im_end|>\n{% endfor", "{{ '<|eot_id|>' if loop.last else '<|im_end|>' }}{% endfor")
    assert learned(fam.make_tokenizer(own), CHAT) == ["12 + 7<|im_end|>", LAST + "<|eot_id|>"]


def test_a_closing_that_is_no_special_token_is_learned_and_followed_by_the_eos():
    template = fam.CHATML.replace("<|im_end|>", "[END]")
    assert learned(fam.make_tokenizer(template), CHAT)[-1] == LAST + "[END]\n</s>"


def test_an_appended_eos_needs_one():
    tokenizer = fam.make_tokenizer(fam.NO_CLOSING)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        sample_of(tokenizer, CHAT)


def test_system_moves_into_the_user_turn_where_the_template_has_none():
    tokenizer = fam.make_tokenizer(fam.GEMMA)
    chat = [system("be brief"), *CHAT]
    assert "<start_of_turn>user\nbe brief\n\nsay 12 + 7<end_of_turn>" in tokenizer.decode(
        sample_of(tokenizer, chat).input_ids
    )
    prompt = render_prompt(chat[:2], tokenizer)
    assert sample_of(tokenizer, chat[:3]).input_ids[: len(prompt)].tolist() == prompt
    assert learned(tokenizer, chat) == ["12 + 7<end_of_turn>", LAST + "<end_of_turn>"]


def test_content_is_trimmed_as_the_template_does():
    chat = [user("  a "), assistant("  12 + 7 \n"), user("b"), assistant("\nfox ")]
    assert learned(fam.make_tokenizer(fam.LLAMA3), chat) == ["12 + 7<|eot_id|>", "fox<|eot_id|>"]


def test_only_the_turns_from_learn_from_on():
    renderer = Renderer(fam.make_tokenizer(fam.GEMMA))
    conversation = Conversation((system("be brief"), *CHAT), learn_from=4)
    sample = renderer.encode([renderer.render(conversation)])[0]
    tokenizer = fam.make_tokenizer(fam.GEMMA)
    assert tokenizer.decode(sample.input_ids[sample.supervised]) == LAST + "<end_of_turn>"
    prompt = renderer.prompt_ids(conversation)
    assert prompt == sample.input_ids[: len(prompt)].tolist()
    assert sample.supervised.tolist().index(True) == len(prompt)


def test_train_on_all():
    sample = sample_of(fam.make_tokenizer(fam.CHATML), CHAT, train_on="all")
    assert sample.supervised[1:].all() and not sample.supervised[0]


def test_an_assistant_that_begins():
    chat = [assistant("hello fox"), user("hi"), assistant("dog")]
    assert learned(fam.make_tokenizer(fam.CHATML), chat) == ["hello fox<|im_end|>", "dog<|im_end|>"]
    chat = [system("be brief"), assistant("hello fox")]
    assert learned(fam.make_tokenizer(fam.CHATML), chat) == ["hello fox<|im_end|>"]


def test_a_refusal_of_the_template_is_told():
    with pytest.raises(DataError, match=r"refuses the conversation \(user, user\): .*alternate"):
        sample_of(fam.make_tokenizer(fam.GEMMA), [user("a"), user("b")])


def test_a_template_that_hides_its_replies_is_an_error():
    template = fam.CHATML.replace("<|im_end|>\n{% endfor", "<|im_end|>{{ m.content | length }}\n{% endfor")
    with pytest.raises(DataError, match=r"turn 2 can't be located.*generation"):
        sample_of(fam.make_tokenizer(template), CHAT)


def test_a_base_model_gets_the_plain_template():
    tokenizer = fam.make_tokenizer(None)
    assert learned(tokenizer, CHAT) == ["12 + 7</s>", LAST + "</s>"]
    text = tokenizer.decode(sample_of(tokenizer, [system("be brief"), *CHAT[:2]]).input_ids)
    assert text == "<s>System:\nbe brief\n\nUser:\nsay 12 + 7\n\nAssistant:\n12 + 7</s>\n\n"
    prompt = render_prompt(CHAT[:1], tokenizer)
    assert sample_of(tokenizer, CHAT[:2]).input_ids[: len(prompt)].tolist() == prompt
