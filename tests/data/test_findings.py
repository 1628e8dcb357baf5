"""What is odd or bad about rows is counted, and shown in the summary."""

import json

import pytest

from quatrain.data import DataConfig, findings, prepare, read_questions
from quatrain.data.bad_rows import BadRows
from quatrain.errors import DataError, RowError
from tests.data import families as fam
from tests.data.families import assistant, system, user


def config_of(tmp_path, *rows, **options) -> DataConfig:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return DataConfig(path=str(path), **options)


def chat(*turns) -> dict:
    return {"messages": list(turns)}


@pytest.fixture(scope="module")
def chatml():
    return fam.make_tokenizer(fam.CHATML, eos="<|im_end|>")


GOOD = chat(user("say fox"), assistant("fox"))


def test_a_doubled_beginning_is_counted(tmp_path, chatml):
    found = prepare(
        config_of(tmp_path, {"text": "<s>the fox"}, {"text": "the fox"}), chatml, max_length=99
    ).summary.found
    assert found == {findings.DOUBLED_BOS: 1, findings.SPECIAL_INSIDE: 1}


def test_a_reply_without_an_end_is_counted(tmp_path):
    open_turns = fam.make_tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    rows = [chat(user("a"), assistant("b"), user("c"), assistant("d")), GOOD]
    summary = prepare(config_of(tmp_path, *rows), open_turns, max_length=99).summary
    assert summary.found == {findings.NO_END: 1}, "the last reply of a row is ended by what is appended"
    assert "odd: 1 (a reply without an end token" in str(summary)


def test_a_reply_beyond_the_cut_is_counted(tmp_path, chatml):
    two = chat(user("say fox"), assistant("fox"), user("jumps " * 30), assistant("dog"))
    long = chat(user("say fox"), assistant("fox " * 60))
    summary = prepare(config_of(tmp_path, two, long, GOOD), chatml, max_length=60).summary
    assert (summary.cut, summary.found) == (2, {findings.REPLY_LOST: 1})


def test_special_tokens_within_a_text_are_counted(tmp_path, chatml):
    rows = [chat(user("say <|im_end|>"), assistant("fox")), {"messages": [user("a"), assistant("</s>")]}, GOOD]
    assert prepare(config_of(tmp_path, *rows), chatml, max_length=99).summary.found == {findings.SPECIAL_INSIDE: 2}


def test_bad_rows_of_every_kind_are_left_out_and_counted(tmp_path):
    rows = [
        *(GOOD, "{", "[]", '{"messages": 3}', '{"messages": [{"role": "narrator", "content": "x"}]}', '{"text": "x"}'),
        chat(user("a"), user("b"), assistant("c")),
        *(chat(user("a"), user("b") | {"content": 3}), '{"messages": [{"role": "user", "content": "\\ud800"}]}', GOOD),
    ]
    config = config_of(tmp_path, *rows, on_bad_row="skip")
    prepared = prepare(config, fam.make_tokenizer(fam.GEMMA), max_length=99)
    assert len(prepared.samples) == 2
    assert prepared.summary.bad == {
        "not JSON": 1,
        "not an object": 1,
        "a malformed conversation": 1,
        "an unknown role": 1,
        "of another schema": 1,
        "refused by the chat template": 1,
        "not text": 1,
        "half of a surrogate pair": 1,
    }
    assert (
        prepared.summary.bad_first[0]
        == f"{config.path}, line 2, byte 97: not valid JSON: Expecting property name enclosed in double quotes."
    )
    assert len(prepared.summary.bad_first) == 5
    assert "bad rows, left out: 1 (an unknown role)" in str(prepared.summary)


def test_stopping_names_the_row(tmp_path, chatml):
    config = config_of(tmp_path, GOOD, {"messages": [{"role": "narrator", "content": "x"}]})
    with pytest.raises(
        RowError, match=r"rows.jsonl, line 2, byte 96, turn 1: the role 'narrator' isn't known"
    ) as error:
        prepare(config, chatml, max_length=99)
    assert error.value.kind == "an unknown role"


def test_nothing_but_bad_rows_is_an_error(tmp_path, chatml):
    with pytest.raises(DataError, match=r"has no rows: all 2 are bad; the first: .*line 1, byte 1: not valid JSON"):
        prepare(config_of(tmp_path, "{", "{", on_bad_row="skip"), chatml, max_length=99)
    unknown = {"messages": [{"role": "narrator", "content": "x"}]}
    with pytest.raises(DataError, match=r"no sample is left .*1 rows: an unknown role; .*line 1, byte 0, turn 1"):
        prepare(config_of(tmp_path, unknown, on_bad_row="skip"), chatml, max_length=99)


def test_questions_leave_bad_rows_out_too(tmp_path, chatml):
    config = config_of(tmp_path, GOOD, chat(user("a")), "{", on_bad_row="skip")
    bad = BadRows(config)
    assert [question.reference for question in read_questions(config, chatml, bad)] == ["fox"]
    assert bad.counts == {"no question with a reply": 1, "not JSON": 1}
    with pytest.raises(DataError, match="no question is left; the first bad row"):
        read_questions(config_of(tmp_path, chat(user("a")), on_bad_row="skip"), chatml)


def test_a_role_that_the_template_leaves_out_is_named(tmp_path):
    two_roles = (
        "{% for m in messages if m.role in ('user', 'assistant') %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    )
    tokenizer = fam.make_tokenizer(two_roles)
    tool = {"role": "tool", "content": "19"}
    with pytest.raises(DataError, match="line 1, byte 0: the chat template doesn't take tool turns"):
        prepare(config_of(tmp_path, chat(user("a"), tool, assistant("b"))), tokenizer, max_length=99)
    with pytest.raises(DataError, match="the chat template doesn't take system turns"):
        prepare(config_of(tmp_path, chat(user("a"), system("b"), assistant("c"))), tokenizer, max_length=99)
    moved = prepare(config_of(tmp_path, chat(system("say"), user("fox"), assistant("b"))), tokenizer, max_length=99)
    assert moved.summary.example[0][0].startswith("<|user|>say\n\nfox<|end|>")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}", "can't render a question and its answer"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it loops for too long"),
        ("{{ messages[0].content * 10**10 }}", "it makes a text or list"),
        ("{{ messages[0].contents.text }}", "'dict object' has no attribute 'contents'"),
        (
            "{% for m in messages %}{{ m.content if m.role == 'user' }}{% endfor %}",
            "leaves out what the assistant says",
        ),
        ("hello", "leaves out what the user says"),
        ("{{ raise_exception('never') }}", "never"),
        ("{% for m in messages %}{{ m.content }}{{ range(9999999) | random }}{% endfor %}", "Range too big"),
        ("{% for m in messages %}{{ m.content }}{{ range(99999) | random }}{% endfor %}", "the same text twice"),
        ({"rag": "x", "tools": "y"}, "none is called default"),
    ],
)
def test_a_template_that_cant_be_used_is_named(tmp_path, template, says):
    tokenizer = fam.make_tokenizer(None)
    tokenizer.chat_template = template
    with pytest.raises(DataError) as error:
        prepare(config_of(tmp_path, GOOD, on_bad_row="skip"), tokenizer, max_length=99)
    assert says in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600
