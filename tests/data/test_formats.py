"""Rows of every known format become the same few kinds of examples; what isn't known is told with a way out."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quatrain.data import Completion, Conversation, DataConfig, Text
from quatrain.data.bad_rows import BadRows
from quatrain.data.formats import read_examples
from quatrain.data.rows import Place, Row
from quatrain.errors import DataError, QuatrainError
from tests.data.families import assistant, system, user


def examples(*rows, **options):
    config = DataConfig(path="data", **options)
    located = (Row(Place("data", i), row) for i, row in enumerate(rows, 1))
    return [example for _, example in read_examples(located, config, BadRows(config))]


ROUND = (user("q"), assistant("a"))
PARTS = [{"type": "text", "text": "q"}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": list(ROUND)}, Conversation(ROUND)),
        ({"messages": list(ROUND), "text": "ignored"}, Conversation(ROUND)),
        ({"messages": [{"role": "user", "content": PARTS}, assistant("a")]}, Conversation(ROUND)),
        (
            {"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            Conversation((system("s"), *ROUND)),
        ),
        ({"conversations": list(ROUND)}, Conversation(ROUND)),
        ({"instruction": "q", "input": "", "output": "a"}, Conversation(ROUND)),
        ({"instruction": "q", "output": "a"}, Conversation(ROUND)),
        ({"instruction": "q", "input": "i", "output": "a"}, Conversation((user("q\n\ni"), assistant("a")))),
        (
            {"instruction": "q", "input": None, "output": "a", "system": "s", "history": [["q0", "a0"]]},
            Conversation((system("s"), user("q0"), assistant("a0"), *ROUND)),
        ),
        ({"prompt": "q", "completion": "a"}, Completion("q", "a")),
        ({"prompt": [user("q")], "completion": [assistant("a")]}, Conversation(ROUND, learn_from=1)),
        ({"prompt": [user("q")], "completion": "a"}, Conversation(ROUND, learn_from=1)),
        ({"text": "t", "id": 3}, Text("t")),
    ],
)
def test_detected_by_columns(row, expected):
    assert examples(row) == [expected]


def test_tool_calls_are_kept():
    call = {"function": {"name": "add", "arguments": "{}"}}
    row = {"messages": [user("q"), {"role": "assistant", "content": None, "tool_calls": [call]}]}
    assert examples(row) == [Conversation((user("q"), assistant("", tool_calls=[call])))]


def test_fields_rename_columns_and_hide_the_others():
    row = {"question": "q", "answer": "a", "text": "t"}
    assert examples(row, fields={"prompt": "question", "completion": "answer"}) == [Completion("q", "a")]
    with pytest.raises(DataError, match=r"line 1: `fields` names the columns \['reply'\], the row has \['question'"):
        examples(row, fields={"prompt": "question", "completion": "reply"})


def test_a_named_format_wins():
    row = {"messages": list(ROUND), "text": "t"}
    assert examples(row, format="text") == [Text("t")]
    with pytest.raises(DataError, match=r"'conversations' is missing.*taken as sharegpt \(by `format`\)"):
        examples(row, format="sharegpt")


def test_unknown_columns_are_listed_with_the_formats_and_a_way_out():
    with pytest.raises(DataError) as error:
        examples({"question": "q", "answer": "a"})
    message = str(error.value)
    assert "['question', 'answer']" in message
    assert all(name in message for name in ("messages", "sharegpt", "alpaca (instruction, output)", "text"))
    assert "fields: {prompt: question, completion: answer}" in message


def test_no_rows():
    with pytest.raises(DataError, match="data has no rows"):
        examples()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "t"}, r"line 2: the column 'messages' is missing: .*by its first row.*\['text'\]"),
        ({"messages": "hi"}, "line 2: a conversation must be a list of turns, got str"),
        ({"messages": ["hi"]}, "line 2, turn 1: a turn must have named fields, got str"),
        ({"messages": [{"content": "hi"}]}, "line 2, turn 1: a turn needs `role` and `content`"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "line 2, turn 1: the role 'wizard' isn't known"),
        ({"messages": [{"role": "user"}]}, "line 2, turn 1: the turn has no `content`"),
        ({"messages": [user("a"), {"role": "assistant", "content": 3}]}, "turn 2: text is expected, got int 3"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "only text can be trained on"),
        ({"messages": [user("\ud800")]}, "line 2, turn 1: character 1 is half of a surrogate pair"),
    ],
)
def test_a_bad_row_is_named(row, message):
    with pytest.raises(DataError, match=message):
        examples({"messages": list(ROUND)}, row)


def test_a_bad_history_is_named():
    with pytest.raises(DataError, match="`history` must be a list of"):
        examples({"instruction": "q", "output": "a", "history": ["q0"]})


def node(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


TREE = node(
    "prompter",
    "q",
    node("assistant", "worse", rank=1),
    node("assistant", "deleted", rank=0, deleted=True),
    node("assistant", "best", node("prompter", "more?", node("assistant", "yes", rank=0)), rank=0),
    node("assistant", "unranked", node("prompter", "x"), node("prompter", "y"), rank=None),
)


def flat(root, parent=None, counter=None):
    """The tree's messages one by one, the root last, so that replies stand before what they reply to."""
    counter = counter if counter is not None else iter(range(100))
    name = f"m{next(counter)}"
    for reply in root["replies"]:
        yield from flat(reply, name, counter)
    yield {**root, "message_id": name, "parent_id": parent, "replies": None}


def contents(found) -> list[list[str]]:
    return [[message["content"] for message in example.messages] for example in found]


@pytest.mark.parametrize("rows", [[{"prompt": TREE, "message_tree_id": "t"}], list(flat(TREE))])
def test_oasst_paths(rows):
    assert contents(examples(*rows)) == [["q", "best", "more?", "yes"]]
    # Both questions after "unranked" have no answer; what remains of the two paths is one.
    everything = contents(examples(*rows, paths="all"))
    assert everything == [["q", "best", "more?", "yes"], ["q", "worse"], ["q", "unranked"]]
    (best,) = examples(*rows)
    assert isinstance(best, Conversation)
    assert [message["role"] for message in best.messages] == ["user", "assistant"] * 2


def test_oasst_errors():
    with pytest.raises(DataError, match="line 1: its parent 'm9' isn't in the data"):
        examples({"message_id": "m1", "parent_id": "m9", "role": "assistant", "text": "a"})
    row = {"message_id": "m1", "parent_id": None, "role": "prompter", "text": "a"}
    with pytest.raises(DataError, match="line 2: the message_id 'm1' occurs a second time"):
        examples(row, row)
    with pytest.raises(DataError, match="line 1: a message of an OASST tree needs"):
        examples({"prompt": {"text": "a"}})
    with pytest.raises(DataError, match="line 1: the role 'wizard' isn't known"):
        examples({"prompt": {"text": "a", "role": "wizard"}})
    with pytest.raises(DataError, match="line 1: its replies lead in a circle"):
        examples({"message_id": "m1", "parent_id": "m1", "role": "prompter", "text": "a"})


def test_a_very_deep_tree_is_walked():
    tree = node("assistant", "end")
    for depth in range(3000):
        tree = node(("prompter", "assistant")[depth % 2], "x", tree)
    assert len(contents(examples({"prompt": node("prompter", "q", tree)}))[0]) == 3002


COLUMN = st.sampled_from(
    ["messages", "conversations", "prompt", "completion", "text", "instruction", "output", "other"]
)
VALUE = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "replies", "text"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)
@given(rows=st.lists(st.dictionaries(COLUMN, VALUE, min_size=1), min_size=1, max_size=3))
def test_any_rows_are_examples_or_an_error_of_ours(rows):
    rows = json.loads(json.dumps(rows))
    try:
        found = examples(*rows)
    except QuatrainError as error:
        assert "line" in str(error)
    else:
        assert all(isinstance(example, Conversation | Completion | Text) for example in found)
