"""Templates do here what they do in transformers, and what would take all time or memory is refused."""

import resource
import time

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from quatrain.data.sandbox import FAILURES, MAX_SOURCE, BoundedTemplate

CHAT = [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": "12"}]


def doubled(first: str, step: str, last: str = "{{ x }}") -> str:
    """A template that sets x and then does the same to it a hundred times."""
    return "{% set x = " + first + " %}" + step * 100 + last


LOOPS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop over filtered values": "{% for a in range(9999) %}{% for b in range(9999)|map('abs') %}"
    "{% endfor %}{% endfor %}",
    "macros that call each other twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "a recursive macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{{ loop([[1]]) }}{% endfor %}",
    "a large range": "{{ range(10**9)|list }}",
    "two equal lists of themselves": "{% set y = [1] %}"
    + doubled("[1]", "{% set x = [x, x] %}{% set y = [y, y] %}", "{{ x == y }}"),
    "powers": "{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}",
    "places behind the point": "{{ 1.5|round(10**10, 'ceil') }}",
}
TEXTS = {
    "a product": "{{ 'a' * 10**10 }}",
    "a list's product": "{{ [0] * 10**10 }}",
    "doubling by ~": doubled("'ab'", "{% set x = x ~ x %}"),
    "doubling by +": doubled("'ab'", "{% set x = x + x %}"),
    "doubling by a block": doubled("'ab'", "{% set x %}{{ x }}{{ x }}{% endset %}"),
    "doubling by replace": doubled("'aa'", "{% set x = x|replace('a', 'aa') %}"),
    "doubling by a method": doubled("'aa'", "{% set x = x.replace('a', 'aa') %}"),
    "doubling by join": doubled("'aa'", "{% set x = [x, x]|join %}"),
    "a list in itself": doubled("[1]", "{% set x = [x, x] %}"),
    "a tuple in itself": doubled("(1,)", "{% set x = (x, x) %}"),
    "a mapping in itself": doubled("{'a': 1}", "{% set x = {'a': x, 'b': x} %}"),
    "a list in itself as JSON": doubled("[1]", "{% set x = [x] * 2 %}", "{{ x|tojson }}"),
    "a filter": "{{ 'a'|center(10**10) }}",
    "a method": "{{ 'a'.ljust(10**10) }}",
    "a format": "{{ '{:9999999999}'.format(1) }}",
    "a format's nested width": "{{ '{:{}}'.format(1, 10**10) }}",
    "a width behind %": "{{ '%9999999999d' % 1 }}",
    "a star behind %": "{{ '%*d' % (9999999999, 1) }}",
    "an indent": "{{ {'a': 1}|tojson(indent=10**10) }}",
    "a join of long texts": "{{ ''.join(['a' * 100000] * 100000) }}",
    "a join by a long text": "{{ range(99999)|map('string')|join('x' * 99999) }}",
    "tabs": "{{ '\t'.expandtabs(10**10) }}",
    "batches": "{{ [1]|batch(10**10, 'x')|list }}",
    "slices": "{{ [1]|slice(10**10)|list }}",
    "bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "dummy text": "{{ lipsum(n=10**9) }}",
    "long output": "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
}


@pytest.mark.parametrize("source", [pytest.param(s, id=name) for name, s in (LOOPS | TEXTS).items()])
def test_what_would_not_end_is_refused(source):
    largest, began = most_memory(), time.process_time()
    with pytest.raises(FAILURES):
        BoundedTemplate(source).render({"messages": CHAT})
    assert time.process_time() - began < 10
    assert most_memory() - largest < 200 * 2**20


def most_memory() -> int:
    """Bytes that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    "source",
    [
        *("{{ 'a'.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% include 'x' %}", "{% if %}", "{{ 1 / 0 }}"),
        pytest.param(" " * (MAX_SOURCE + 1), id="long"),
    ],
)
def test_what_isnt_allowed_or_fails_is_refused(source):
    with pytest.raises(FAILURES):
        BoundedTemplate(source).render({"messages": CHAT})


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} {{ loop.last }}{% endfor %}",
        "{% for k, v in messages[0].items() %}{{ k ~ '=' ~ v ~ 1 ~ missing }}{% else %}none{% endfor %}",
        "{% for m in messages|selectattr('role', 'equalto', 'user') %}{{ m | tojson }}{{ loop.revindex }}{% endfor %}",
        "{% for m in nothing %}{{ m }}{% else %}empty{% endfor %}",
        "{% set ns = namespace(a=[]) %}{% for i in range(3) %}{% set ns.a = ns.a + [i, 2] %}{% endfor %}{{ ns.a }}",
        "{% for row in [1, [2, [3]]] recursive %}{{ loop(row) if row is iterable else row }}{% endfor %}",
        "{% macro f(a, b=2) %}{{ a * b }}{% endmacro %}{{ f(3) }}{{ f('ab', b=3) }}",
        "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ '%03d' % i ~ '{:>4}'.format(i) }}{% endfor %}",
        "{{ (messages | map(attribute='content') | join(', ')) }}{{ messages[::-1] | length }}{{ {'a': (1,)} }}",
        "{% filter replace('a', 'bb') %}{{ 'banana' | indent(4, true) }}{% endfilter %}{{ 2 ** 10 }}{{ 7 % 4 }}",
        "{% macro f() %}{{ caller(1) }}{{ caller('z') }}{% endmacro %}{% call(x) f() %}<{{ x }}>{% endcall %}",
        "{{ messages[0]['content'].split(' ')[-1].strip('?').title() }}{{ undefined_name | default('d') }}",
    ],
)
def test_the_language_is_transformers_own(source):
    rendered, _ = render_jinja_template(conversations=[CHAT], chat_template=source)
    assert BoundedTemplate(source).render({"messages": CHAT}) == rendered[0]


def test_a_long_conversation_may_be_rendered():
    source = "{% for m in messages %}{{ m.content | trim | replace('a', 'b') ~ '\n' }}{% endfor %}"
    long = [{"role": "user", "content": "a " * 2**20}, *CHAT * 2000]
    assert len(BoundedTemplate(source).render({"messages": long})) > 2 * 2**20
