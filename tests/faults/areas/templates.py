"""Chat templates of others: programs that fail, loop, or look for a way out of their sandbox."""

from functools import partial

from quatrain.data.examples import Conversation
from quatrain.data.render import Renderer, render_prompt
from quatrain.errors import DataError
from tests.conftest import CHATML, make_tokenizer
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place

TALK = [{"role": "user", "content": "hello"}]


def _rendering(at: Place, template: str) -> Call:
    tokenizer = make_tokenizer(template)
    return lambda: render_prompt(TALK, tokenizer)


_EMPTY = "leaves out what the user says"
_REFUSES = "the chat template refuses the conversation"

for _words, _says, _template in (
    ("isn't a program", _REFUSES, "{% for %}"),
    ("ends in the middle", _REFUSES, "{% for m in messages %}{{ m"),
    ("asks for an unknown filter", _REFUSES, "{{ messages | explode }}"),
    ("divides by zero", _REFUSES, "{{ 1 / 0 }}"),
    ("writes what JSON can't", _REFUSES, "{{ nothing | tojson }}"),
    ("adds texts and numbers", _REFUSES, "{{ 'a' + 1 }}"),
    ("is nested a thousand deep", _REFUSES, "{{ " + "(" * 5000),
    ("calls itself without end", _REFUSES, "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"),
    ("loops for hours", "it loops for too long", "{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2),
    ("counts beyond the sandbox's range", _REFUSES, "{% for a in range(10 ** 9) %}{% endfor %}"),
    ("looks for Python's classes", "unsafe", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    ("looks for Python's globals", _EMPTY, "{{ raise_exception.__globals__ }}"),
    ("formats its way to attributes", _EMPTY, "{{ '{0.__class__}'.format(messages) }}"),
    ("changes the conversation", "unsafe", "{{ messages.append(1) }}"),
    ("includes a file", _REFUSES, "{% include '/etc/passwd' %}"),
    ("imports another", _REFUSES, "{% import 'os' as os %}"),
):  # fmt: skip
    fault(f"a chat template that {_words}", DataError, _says)(partial(_rendering, template=_template))


@recovers("a chat template that asks for Python's modules by name", "the names are empty in its sandbox")
def _(at: Place) -> Call:
    names = ("os", "open", "__import__", "self", "eval", "globals")
    tokenizer = make_tokenizer(CHATML + "".join(f"{{{{ {name} }}}}" for name in names))

    def call() -> None:
        text = tokenizer.decode(render_prompt(TALK, tokenizer))
        assert "hello" in text and not any(word in text for word in ("module", "built-in", "function"))

    return call


@fault("a chat template of a thousand generation marks, none closed", DataError, _REFUSES)
def _(at: Place) -> Call:
    tokenizer = make_tokenizer("{% generation %}" * 1000)
    return lambda: Renderer(tokenizer).render(Conversation(tuple(TALK)))
