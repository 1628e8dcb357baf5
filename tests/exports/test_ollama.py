"""The Modelfile's template writes what the chat template writes."""

import pytest

from quatrain.errors import ModelError
from quatrain.exports import export
from quatrain.exports.ollama import ollama_template, take_apart
from tests.conftest import CHATML, make_tokenizer

DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
LLAMA_3 = (
    "{% for m in messages %}{% if loop.first %}<|endoftext|>{% endif %}<|im_start|>{{ m['role'] }}\n\n"
    "{{ m['content'] | trim }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
SYSTEM_INSIDE_THE_PROMPT = (
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}{% set messages = messages[1:] %}"
    "{% endif %}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}"
    "{% if loop.last and s is defined %} ({{ s }}){% endif %} [/INST]{% else %}{{ m['content'] }}<|im_end|>{% endif %}"
    "{% endfor %}"
)


def test_the_modelfile_stands_beside_the_model(run, tmp_path):
    export(run, tmp_path / "out", to="ollama", measure=False)
    lines = (tmp_path / "out" / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf" and (tmp_path / "out" / "model.gguf").is_file()
    assert lines[-1] == 'PARAMETER stop "<|im_end|>"'


def test_chatml():
    assert ollama_template(make_tokenizer(CHATML)) == (
        '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n'
        '{{ else if eq .Role "assistant" }}{{ .Content }}<|im_end|>\n{{ end }}{{ end }}'
    )


@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, LLAMA_3])
def test_templates_that_are_chains_of_turns(template):
    """That the pieces, put together, are what Jinja writes is checked inside."""
    pieces = take_apart(make_tokenizer(template))
    assert pieces.after_reply.startswith("<|im_end|>")


def test_a_default_system_message_is_written_when_there_is_none():
    text = ollama_template(make_tokenizer(DEFAULT_SYSTEM))
    assert text.startswith("{{ if not .System }}<|im_start|>system\nBe kind.<|im_end|>\n{{ end }}")


@pytest.mark.parametrize("template", [SYSTEM_INSIDE_THE_PROMPT, "{{ messages[-1]['content'] | upper }}"])
def test_other_templates_are_refused(template):
    with pytest.raises(ModelError, match="chain of turns"):
        take_apart(make_tokenizer(template))


def test_braces_are_refused():
    template = CHATML.replace("<|im_start|>", "{{ '{{' }}")
    with pytest.raises(ModelError, match="braces"):
        ollama_template(make_tokenizer(template))


def test_without_a_chat_template_prompts_are_continued():
    assert ollama_template(make_tokenizer(None)) == "{{ .Prompt }}"
