"""Runs a chat template, which is a program from a stranger's repository, within bounds.

jinja's sandbox keeps a template from Python's insides, and that is all that transformers asks of it: three nested loops
over ``range(99999)`` hang the process, and forty lines of ``{% set x = x ~ x %}`` fill the machine's memory. So
everything by which a template can take time or memory is metered here: turns of loops, calls, filters, operators, and
the size of each text that they make. What grows a text in one stroke (``*``, ``replace``, ``join``, ``ljust``) is
estimated before it is done. A rendering may spend so much for itself and so much for each character of its
conversation; the figures leave published templates a factor of about a hundred.

The environment takes its filters, globals and ``{% generation %}`` from transformers' own, so that a template does here
what it does there. The alternative, a process with limits of the operating system, bounds as well but costs a start and
a round trip for each of a few renderings a row. Counting steps rather than seconds makes a verdict repeatable.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 2**20
"""Characters of a template. Published ones have some ten thousand."""
STEPS = 250_000
"""Units of work that a rendering may spend whatever it renders: one for a turn of a loop, an operator or 16 characters
that are made, 16 for a call."""
STEPS_A_CHARACTER = 64
"""What each character of the conversation adds."""
_CHARACTERS_A_STEP = 16
_STEPS_A_CALL = 16
_MAX_BITS = 100_000

FAILURES = (
    *(TemplateError, ArithmeticError, AttributeError, LookupError),
    *(MemoryError, RuntimeError, TypeError, ValueError),
)
"""What a template's expressions can raise."""

# Their result isn't made of the text of what they are given, so looking at its length is enough.
_SHALLOW = frozenset(
    {
        *("abs", "attr", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby", "int"),
        *("items", "last", "length", "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse"),
        *("round", "select", "selectattr", "slice", "sort", "unique"),
    }
)
# Their result may be as large as the product of what they are given.
_GROWING = frozenset(
    {
        *("batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "pprint"),
        *("replace", "rjust", "round", "slice", "to_bytes", "tojson", "translate", "urlize", "wordwrap"),
        *("xmlattr", "zfill"),
    }
)
_NUMBER = re.compile(r"\d+")
_TURNS, _COLLECTION, _JOINED = "metered turns", "metered collection", "metered join"


class BoundedTemplate:
    """A compiled template. Renderings in several threads don't disturb each other, but for marked ones."""

    def __init__(self, source: str) -> None:
        """Raises one of :data:`FAILURES` where `source` doesn't compile or is too long."""
        if len(source) > MAX_SOURCE:
            raise SecurityError(f"it has {len(source):,} characters, {MAX_SOURCE:,} are allowed")
        self._environment = _Environment()
        self._environment.meter.left = STEPS  # constant expressions are computed while it compiles
        self._template: Template = self._environment.from_string(_Metered().visit(self._environment.parse(source)))

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises one of :data:`FAILURES`."""
        return "".join(self._pieces(variables))

    def render_marked(self, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the spans between generation markers. Raises one of :data:`FAILURES`."""
        pieces: list[str] = []
        spans: list[tuple[int, int]] = []
        with self._environment.activate_tracker(pieces, spans):  # pyright: ignore[reportAttributeAccessIssue]
            for piece in self._pieces(variables):
                pieces.append(piece)
        return "".join(pieces), spans

    def _pieces(self, variables: Mapping[str, Any]) -> Iterator[str]:
        meter = self._environment.meter
        meter.left = STEPS + STEPS_A_CHARACTER * _deep_size(variables, limit=2**31)
        for piece in self._template.root_render_func(self._template.new_context(dict(variables))):
            meter.charge(piece)
            yield piece


@lru_cache(maxsize=32)
def bounded(source: str) -> BoundedTemplate:
    """The compiled template of a source, the last few of which are kept."""
    return BoundedTemplate(source)


class _Meter(threading.local):
    """What the rendering of this thread has left to spend."""

    left = 0

    @property
    def room(self) -> int:
        """Characters that can still be made."""
        return self.left * _CHARACTERS_A_STEP

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise SecurityError("it loops for too long or makes too much text")

    def charge(self, value: Any) -> Any:
        """Pay for a value that was made, and hand it on."""
        self.spend(1 + (len(value) // _CHARACTERS_A_STEP if isinstance(value, Sized) else 0))
        return value

    def afford(self, characters: int) -> None:
        """Refuse what can't be paid before it is made."""
        if characters > self.room:
            raise SecurityError(f"it makes a text or list of up to {characters:.3g} elements")

    def collection(self, value: Any) -> Any:
        """A list that may hold another one twice, on and on: comparing and writing it takes as long as it is when
        written out."""
        if not isinstance(value, str):
            self.spend(_deep_size(value, self.room) // _CHARACTERS_A_STEP * 2)
        return value

    def turns(self, value: Any) -> Any:
        """What a loop runs over. Charged at once where its length is known, else turn by turn."""
        if isinstance(value, Sized):
            self.spend(len(value))
            return value
        return self._counted(value)

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.spend(1)
            yield value

    def operation(self, name: str, value: Any, arguments: Sequence[Any]) -> None:
        """Look at a call or filter before it is made."""
        self.spend(_STEPS_A_CALL)
        size = _size(value) if name in _SHALLOW else _deep_size(value, self.room)
        if name in _GROWING:
            written = [int(digits[:18]) for digits in _NUMBER.findall(value)] if isinstance(value, str) else []
            given = [_size(argument) for argument in arguments] + [_deep_size(a, self.room) for a in arguments]
            size = (size + 1) * max([1, *given, *(written if "format" in name else ())])
        self.afford(size)


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' environment with a meter on everything that takes time or memory."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        theirs = _compile_jinja_template("").environment
        super().__init__(
            trim_blocks=theirs.trim_blocks,
            lstrip_blocks=theirs.lstrip_blocks,
            extensions=[type(extension) for extension in theirs.extensions.values()],
        )
        self.meter = _Meter()
        self.globals = {name: value for name, value in theirs.globals.items() if name != "lipsum"}
        self.filters = {name: self._metered(name, call) for name, call in theirs.filters.items()}
        self.filters |= {_TURNS: self.meter.turns, _COLLECTION: self.meter.collection, _JOINED: self._joined}

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Any call of the template. Its receiver is what a method belongs to."""
        method = getattr(obj, "__wrapped__", obj)
        given = (*args, *kwargs.values())
        self.meter.operation(getattr(method, "__name__", ""), getattr(method, "__self__", None), given)
        return self.meter.charge(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.meter.afford(_size_of_result(operator, left, right))
        return self.meter.collection(self.meter.charge(super().call_binop(context, operator, left, right)))

    def concat(self, pieces: Iterable[str]) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How macros and ``{% set %}`` blocks become texts."""
        return self.meter.charge("".join(pieces))

    def _joined(self, values: list[Any]) -> str:
        self.meter.afford(_deep_size(values, self.meter.room))
        return self.meter.charge("".join(map(str, values)))

    def _metered(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        hidden = 1 if hasattr(call, "jinja_pass_arg") else 0  # a context or environment comes first

        @wraps(call)
        def metered(*args: Any, **kwargs: Any) -> Any:
            value, *given = args[hidden:] or (None,)
            self.meter.operation(name, value, (*given, *kwargs.values()))
            return self.meter.charge(call(*args, **kwargs))

        return metered


class _Metered(NodeTransformer):
    """Puts loops, ``~`` and lists, which jinja compiles into plain Python, under the meter."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _through(_TURNS, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _through(_JOINED, nodes.List(node.nodes, lineno=node.lineno))

    def visit_List(self, node: nodes.List) -> nodes.Filter:
        return _through(_COLLECTION, self.generic_visit(node))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:
        return _through(_COLLECTION, self.generic_visit(node))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _through(_COLLECTION, node) if node.ctx == "load" else node


def _through(name: str, value: Any) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def _size_of_result(operator: str, left: Any, right: Any) -> int:
    """At most so many characters, elements, or bits of an integer."""
    if operator == "%" and isinstance(left, str):
        given = right if isinstance(right, tuple) else right.values() if isinstance(right, dict) else (right,)
        widths = [int(digits[:18]) for digits in _NUMBER.findall(left)]
        largest = max([1, *(_deep_size(value, 2**32) for value in given), *map(_size, given), *widths])
        return (left.count("%") + 1) * largest + len(left)
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * (abs(right) if operator == "**" else 1) + right.bit_length()
        return 0 if operator == "%" or bits <= _MAX_BITS else 2**63
    if operator == "*":
        return _size(left) * _size(right)
    return _size(left) + _size(right) if isinstance(left, Sized) else 0


def _size(value: Any) -> int:
    """Elements of a collection, or a number as what it asks for (a width, a count)."""
    if isinstance(value, Sized):
        return len(value)
    return abs(value) if isinstance(value, int) else 1


def _deep_size(value: Any, limit: int) -> int:
    """Characters that `value` takes as text, about; counting ends beyond `limit`, as lists may share their elements."""
    total, stack = 0, [value]
    while stack and total <= limit:
        top = stack.pop()
        total += len(top) + 4 if isinstance(top, Sized) else 4
        if isinstance(top, Mapping):
            stack += [*top.keys(), *top.values()]
        elif isinstance(top, list | tuple):
            stack += top
    return total
