"""Tokenizers and chat templates: missing parts, templates that fail, and what is hidden in them."""

from functools import partial
from pathlib import Path

from quatrain.data import Conversation, DataConfig, Renderer, prepare, render_prompt
from quatrain.errors import DataError, ModelError
from quatrain.models.tokenizers import load_tokenizer
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place

CHAT = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]


def _with_template(at: Place, template: str) -> Path:
    folder = at.model()
    (folder / "chat_template.jinja").write_text(template)
    return folder


def _training(at: Place, template: str) -> Call:
    return at.train(model=_with_template(at, template))


def _asking(at: Place, template: str) -> Call:
    tokenizer = load_tokenizer(_with_template(at, template))
    return lambda: render_prompt(CHAT[:1], tokenizer)


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
USERS = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
EACH = "{% for m in messages %}{{ m.content }}{% endfor %}"
for words, template, says in (
    ("that isn't one", "{% for m in messages %}", "can't render a question and its answer"),
    ("that uses a field that isn't there", "{{ messages[0].contents.text }}", "has no attribute 'contents'"),
    ("that divides by zero", "{{ 1 / 0 }}", "division by zero"),
    ("that raises", "{{ raise_exception('never') }}", "refuses the conversation (user, assistant): never"),
    ("that writes nothing of a turn", "hello", "leaves out what the user says"),
    (
        "that leaves the replies out",
        USERS,
        "leaves out what",
    ),
    ("that reads Python's insides", "{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
    ("that includes a file", "{% include '/etc/passwd' %}", "no loader for this environment"),
    (
        "that loops",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "loops for too long",
    ),
    ("that calls itself", "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth"),
    ("that fills the memory at once", "{{ 'a' * 10**12 }}", "it makes a text or list of up to 1e+12"),
    ("that doubles a text 100 times", "{% set x = 'ab' %}" + "{% set x = x ~ x %}" * 100, "it makes a text or list"),
    ("of two million characters", "{# " + "a" * 2**21 + " #}" + EACH, "1,048,576 are allowed"),
    ("that is random", EACH + "{{ range(99999) | random }}", "doesn't render the same text twice"),
):
    fault(f"a chat template {words}, in training", DataError, says)(partial(_training, template=template))
    if words in ("that loops", "that fills the memory at once", "that raises"):
        fault(f"a chat template {words}, in chat", DataError, says)(partial(_asking, template=template))


@fault("several chat templates, none of them the default", DataError, "none is called default")
def _(at: Place) -> Call:
    tokenizer = load_tokenizer(at.originals.model)
    tokenizer.chat_template = {"rag": EACH, "tools": EACH}  # pyright: ignore[reportAttributeAccessIssue]
    return lambda: render_prompt(CHAT, tokenizer)


@fault("turns of tools under a template that leaves them out", DataError, "the chat template doesn't take tool turns")
def _(at: Place) -> Call:
    template = "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.content }}<|im_end|>{% endfor %}"
    tokenizer = load_tokenizer(_with_template(at, template))
    return lambda: render_prompt([*CHAT, {"role": "tool", "content": "2"}], tokenizer)


@recovers("a system turn under a template that knows none", "its text stands before the user's")
def _(at: Place) -> Call:
    template = "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.content }}<|im_end|>{% endfor %}"
    tokenizer = load_tokenizer(_with_template(at, template))

    def check() -> None:
        ids = render_prompt([{"role": "system", "content": "add"}, *CHAT], tokenizer)
        assert tokenizer.decode(ids) == "add\n\n1 + 1?<|im_end|>2<|im_end|>"

    return check


@recovers("a tokenizer without a chat template", "turns get plain headlines, and the summary says so")
def _(at: Place) -> Call:
    folder = at.model()
    (folder / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(folder)
    rows = at.rows('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}')

    def check() -> None:
        summary = prepare(DataConfig(path=str(rows)), tokenizer, max_length=64).summary
        assert summary.notes and "no chat template" in summary.notes[0]

    return check


@recovers("a tokenizer without a padding token", "another token pads, and padding is masked by its place")
def _(at: Place) -> Call:
    folder = at.model()
    at.edit_json(folder / "tokenizer_config.json", lambda config: config.pop("pad_token") and config)
    return at.train(model=folder, packing="false", per_device_train_batch_size=2)


@recovers("a padding token that is the end of a turn", "the end of each turn is learned all the same")
def _(at: Place) -> Call:
    folder = at.model()
    at.edit_json(folder / "tokenizer_config.json", lambda config: config | {"pad_token": "<|im_end|>"})
    tokenizer = load_tokenizer(folder)

    def check() -> None:
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        renderer = Renderer(tokenizer)
        (sample,) = renderer.encode([renderer.render(Conversation(tuple(CHAT)))])
        assert sample.supervised[sample.input_ids == tokenizer.eos_token_id].tolist() == [False, True]

    return check


@fault("a tokenizer that is no JSON", ModelError, "must be readable by transformers")
def _(at: Place) -> Call:
    folder = at.model()
    (folder / "tokenizer.json").write_text("{")
    return lambda: load_tokenizer(folder)


@fault("a model without a tokenizer", ModelError, "holds no tokenizer; add its tokenizer.json")
def _(at: Place) -> Call:
    folder = at.model()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    return at.train(model=folder)


@fault("an added token that the embedding has no row for, in every row", DataError, "a token beyond the embedding's")
def _(at: Place) -> Call:
    tokenizer = load_tokenizer(at.originals.model)
    tokenizer.add_tokens([f"<new{i}>" for i in range(99)])
    path = at.rows('{"prompt": "<new98>", "completion": "b"}')
    return lambda: prepare(DataConfig(path=str(path)), tokenizer, max_length=64, vocabulary=len(tokenizer) - 1)


@fault("an added token that the embedding has no row for, in a prompt", DataError, "has no row for")
def _(at: Place) -> Call:
    from quatrain import load_model
    from quatrain.evaluation import generate_answers

    model, tokenizer = load_model(at.originals.model, device="cpu", compute_dtype="float32")
    return lambda: generate_answers(model, tokenizer, [[1, 512]], max_new_tokens=2)
