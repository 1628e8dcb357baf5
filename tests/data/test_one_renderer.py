"""What is trained is what chat sends: the same tokens, and those of transformers, for the published templates."""

from pathlib import Path

import pytest
from jinja2 import TemplateError

from quatrain.data import Conversation, Renderer, render_prompt, reply_end_ids
from quatrain.errors import DataError
from tests.data import families as fam
from tests.data.families import assistant, system, user
from tests.data.test_published_templates import CHAT, FOLDER, NAMES, SPECIAL

TOOLS = [
    user("how many?"),
    assistant("", tool_calls=[{"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {}}}]),
    {"role": "tool", "content": "12", "tool_call_id": "call00000", "name": "f"},
    assistant("12 apples"),
]
CHATS = {
    "two rounds": CHAT,
    "a system turn": [system("add, fox"), *CHAT],
    "white space": [user("  a\n"), assistant("\n b\t ")],
    "reasoning": [user("a"), assistant("b", reasoning_content="because"), user("c"), assistant("d")],
    "tools": TOOLS,
}


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = fam.make_tokenizer(None)
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    return tokenizer


def theirs(tokenizer, messages, **options) -> list[int]:
    return tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False, **options)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", NAMES)
def test_training_and_chat_have_the_tokens_of_transformers(name, chat, tokenizer):
    tokenizer.chat_template = (Path(FOLDER) / f"{name}.jinja").read_text(encoding="utf-8")
    renderer, messages = Renderer(tokenizer), CHATS[chat]
    if not all(renderer.template.takes(message["role"]) for message in messages[1:]):
        pytest.skip("the family has no such turns")
    adapted = renderer.template.adapt(messages)
    try:
        expected = theirs(tokenizer, adapted)
    except (TemplateError, TypeError, ValueError) as error:
        pytest.skip(f"the family refuses it: {error}")
    try:
        (sample,) = renderer.encode([renderer.render(Conversation(tuple(messages)))])
    except DataError as error:
        assert chat == "tools" and "can't be located" in str(error), "a reply without content, refused by name"
        return
    ended = len(sample) - len(expected)
    assert sample.input_ids[: len(expected)].tolist() == expected
    assert ended in (0, 1) and sample.input_ids[len(expected) :].tolist() == [tokenizer.eos_token_id] * ended
    asked = messages[:-1]
    sent = render_prompt(asked, tokenizer)
    assert sent == theirs(tokenizer, renderer.template.adapt(asked), add_generation_prompt=True)
    assert renderer.prompt_ids(Conversation(tuple(messages), learn_from=len(asked))) == sent
    learned = sample.input_ids[sample.supervised].tolist()
    assert set(learned) & reply_end_ids(tokenizer), "what decoding stops at is learned"
