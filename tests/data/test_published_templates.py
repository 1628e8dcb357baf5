"""The templates of published models, as TRL carries them, with its marked versions as a second opinion."""

from pathlib import Path

import pytest

from quatrain.data.spans import find_replies, marked_replies
from quatrain.data.template import ChatTemplate
from tests.data import families as fam
from tests.data.families import assistant, user

trl = pytest.importorskip("trl")
FOLDER = Path(trl.__file__).parent / "chat_templates"

SPECIAL = [
    *("<|endoftext|>", "<|begin_of_text|>", "<bos>", "<eos>", "[gMASK]", "<sop>", "<|observation|>", "<|eot|>"),
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    *("<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|turn>", "<turn|>"),
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    *("<|start|>", "<|return|>", "<|message|>", "<|channel|>"),
]
# These are for contents made of parts (images), which never come as text.
OF_PARTS = {"idefics3", "llava_next", "smolvlm"}
NAMES = sorted({path.stem.removesuffix("_training") for path in FOLDER.glob("*.jinja")} - OF_PARTS)
CHAT = [user("say 12 + 7"), assistant("12 + 7"), user("12 + 7, again?"), assistant("the fox\n\n über 🦊  jumps")]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = fam.make_tokenizer(None)
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    return tokenizer


def template_of(tokenizer, name: str) -> ChatTemplate:
    tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_replies_are_found(name, tokenizer):
    template = template_of(tokenizer, name)
    text = template.render(CHAT)
    first, last = find_replies(template, CHAT, text)
    assert first.closed
    for reply, message in ((first, CHAT[1]), (last, CHAT[3])):
        learned = text[reply.start : reply.end]
        said, found, closing = learned.rpartition(message["content"])
        assert found
        # Before the content stands at most an opened channel or a block of no thoughts; behind it, a special token.
        assert "say" not in said and "again" not in said and "user\n" not in said
        assert closing in {c.lead + c.token for c in template.closings} or (closing == "" and not reply.closed)


@pytest.mark.parametrize("name", [name for name in NAMES if (FOLDER / f"{name}_training.jinja").is_file()])
def test_marked_versions_agree(name, tokenizer):
    """Marks may begin at the header and go on over the line end after the turn; content and closing are in both."""
    template = template_of(tokenizer, f"{name}_training")
    text, marked = marked_replies(template, CHAT)
    for reply in find_replies(template, CHAT, text):
        assert any(
            mark.start <= reply.start and reply.end <= mark.end and len(text[reply.end : mark.end].strip()) == 0
            for mark in marked
        )
