"""Rows: files that are damaged or in no known form, and rows that nothing can be learned from."""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

from quatrain.data import DataConfig, load_examples, prepare
from quatrain.data.lines import MAX_LINE_BYTES, Lines
from quatrain.errors import DataError, QuatrainError, RowError
from quatrain.models.tokenizers import load_tokenizer
from quatrain.runlog import DataRead, RunFolder, read_events
from tests.faults.case import Call, fault, recovers
from tests.faults.place import GOOD_ROWS, Place

GOOD = '{"prompt": "1?", "completion": "2"}\n'


def reading(path: Path, **options: Any) -> Call:
    return lambda: list(load_examples(DataConfig(path=str(path), **options)))


def _rows(at: Place, content: str | bytes, name: str = "rows.jsonl") -> Call:
    return reading(at.rows(content, name))


def chat(*turns: object) -> str:
    return json.dumps({"messages": turns}) + "\n"


def turn(role: object, content: object) -> dict:
    return {"role": role, "content": content}


for words, content, says in (
    ("a line that is cut", GOOD + '{"prompt": "1?", "comp', "line 2, byte 53: not valid JSON: Unterminated string"),
    ("single quotes", "{'prompt': 'a'}\n", "line 1, byte 1: not valid JSON: Expecting property name"),
    ("two objects on a line", '{"text": "a"} {"text": "b"}\n', "line 1, byte 14: not valid JSON: Extra data"),
    (
        "a line that is a list",
        GOOD + "[1]\n",
        "line 2, byte 36: a row must be a JSON object with",
    ),
    ("a line that is a number", "7\n", "line 1, byte 0: a row must be a JSON object with named columns, got int"),
    ("broken UTF-8", b'{"text": "\xff"}\n', "line 1, byte 10: byte 0xff isn't UTF-8"),
    ("Latin-1", '{"text": "é"}\n'.encode("latin-1"), "line 1, byte 10: byte 0xe9 isn't UTF-8"),
    ("UTF-16", GOOD.encode("utf-16"), "line 1, byte 0: byte 0xff isn't UTF-8"),
    ("UTF-8 that spells half of a pair", b'{"text": "\xed\xa0\x80"}\n', "line 1, byte 10: byte 0xed isn't UTF-8"),
    (
        "JSON that spells half of a pair",
        '{"text": "\\ud800"}\n',
        "character 1 is half of a surrogate pair",
    ),
    ("a null byte between lines", GOOD + "\0\n", "line 2, byte 36: not valid JSON"),
    (
        "lists nested 100,000 deep",
        "[" * 100_000 + "\n",
        "nested more than 200 deep",
    ),
    ("objects nested 201 deep", '{"a":' * 201 + "1" + "}" * 201, "nested more than 200 deep"),
    ("a number of 5,000 digits", '{"text": ' + "9" * 5000 + "}\n", "line 1, byte 0: a number has 5,000 digits"),
    ("a key that occurs twice", '{"text": "a", "text": "b"}\n', "line 1, byte 0: the key 'text' occurs twice"),
    ("NaN where text should be", '{"text": NaN}\n', "line 1, byte 0: text is expected, got float nan"),
    ("a number where text should be", '{"text": 7}\n', "line 1, byte 0: text is expected, got int 7"),
    ("a list where text should be", '{"text": ["a"]}\n', "line 1, byte 0: text is expected, got list"),
    ("rows of two schemas", GOOD + '{"text": "a"}\n', "line 2, byte 36: the column 'prompt' is missing"),
    ("a role that isn't known", chat(turn("narrator", "a")), "turn 1: the role 'narrator' isn't known"),
    ("a role that is a number", chat(turn(7, "a")), "turn 1: the role 7 isn't known"),
    ("a turn without a role", chat({"content": "a"}), "turn 1: a turn needs `role` and `content`"),
    ("a turn without content", chat({"role": "user"}), "turn 1: the turn has no `content`"),
    ("a turn that is a text", chat("hello"), "turn 1: a turn must have named fields, got str"),
    ("turns that are a text", '{"messages": "hello"}\n', "a conversation must be a list of turns, got str"),
    ("an image in a turn", chat(turn("user", [{"type": "image"}])), "turn 1: only text can be trained on"),
    (
        "a call of a tool with NaN",
        '{"messages": [{"role": "assistant", "tool_calls": [{"x": NaN}]}]}\n',
        "turn 1: nan stands in a turn; JSON has no such number",
    ),
    (
        "a history that isn't pairs",
        '{"instruction": "a", "output": "b", "history": [1]}',
        "must be a list of [",
    ),
    ("a tree without texts", '{"prompt": {"role": "prompter"}}', "a message of an OASST tree needs `role` and `text`"),
    (
        "a message without its parent",
        '{"message_id": "a", "parent_id": "b", "role": "assistant", "text": "x"}',
        "its parent 'b' isn't in the data",
    ),
    (
        "messages that reply to each other",
        '{"message_id": "a", "parent_id": "b", "role": "assistant", "text": "x"}\n'
        '{"message_id": "b", "parent_id": "a", "role": "assistant", "text": "x"}\n',
        "its replies lead in a circle",
    ),
):
    fault(f"{words}, in a row", RowError, says)(partial(_rows, content=content))

ERRORS: tuple[tuple[str, str, str | bytes, str, type[QuatrainError]], ...] = (
    ("a CSV row with a field too many", "a.csv", "text\na\nb,c\n", "line 3, byte 7: 2 fields, but the first", RowError),
    ("a CSV file with a quote that stays open", "a.csv", 'text\n"a\nb\n', "line 2, byte 5: not valid CSV", RowError),
    ("a CSV file with semicolons", "a.csv", "prompt;completion\na;b\n", "no known format has the columns", DataError),
    ("a CSV file that names a column twice", "a.csv", "text,text\na,b\n", "a column name occurs twice", DataError),
    ("an empty file", "a.jsonl", "", "has no rows", DataError),
    ("a file of blank lines", "a.jsonl", "\n" * 1000, "has no rows", DataError),
    ("an empty array", "a.json", "[]", "has no rows", DataError),
    ("an array that is cut", "a.json", f"[{GOOD},", "line 2, byte 38: not valid JSON", DataError),
    ("an array with a comma missing", "a.json", f"[{GOOD} {GOOD}]", "',' or ']' must follow in the array", DataError),
    ("two arrays in a file", "a.json", f"[{GOOD}] []", "something follows after the array's end", DataError),
    ("a form feed before an array", "a.json", f"\f[{GOOD}]", "line 1, byte 0: not valid JSON", RowError),
    ("broken UTF-8 in an array", "a.json", b'[{"text": "a\xff"}]', "line 1, byte 12: byte 0xff isn't", DataError),
    ("a file that isn't gzip", "a.jsonl.gz", GOOD, "can't be read: Not a gzipped file", DataError),
    ("a gzip file that is cut", "a.jsonl.gz", gzip.compress(GOOD.encode() * 99)[:-9], "can't be read", DataError),
    ("a Parquet file that is none", "a.parquet", b"PAR1 and no more", "can't be read as Parquet", DataError),
    ("a file of another kind", "a.xlsx", "PK", "the name must end in one of .jsonl", DataError),
    ("columns that no format has", "a.jsonl", '{"question": "a"}', "no known format has the columns", DataError),
)
for words, name, content, says, error in ERRORS:
    fault(words, error, says)(partial(_rows, content=content, name=name))


@fault("a line of a gigabyte", RowError, "line 1, byte 0: the line is longer than 64 MiB; is it text?")
def _(at: Place) -> Call:
    path = at.rows(b"")
    with path.open("wb") as file:
        file.truncate(2**30)  # zeros that take no place on the disk

    def read() -> None:
        with path.open("rb") as file:
            try:
                next(Lines(file, path))
            finally:
                assert file.tell() <= MAX_LINE_BYTES + 1

    return read


@fault("an element of a gigabyte in an array", DataError, "(or the element is longer than 64 MiB)")
def _(at: Place) -> Call:
    path = at.rows('[{"text": "', "rows.json")
    with path.open("r+b") as file:
        file.truncate(2**30)
    return reading(path)


@fault("a gzip file that unpacks to 1,000 times its size", DataError, "over 200 times its size, which text doesn't")
def _(at: Place) -> Call:
    return reading(at.rows(gzip.compress((b" " * 1023 + b"\n") * 2**17), "rows.jsonl.gz"))


@fault("a Parquet file that unpacks to 1,000 times its size", DataError, "over 200 times its size, which text doesn't")
def _(at: Place) -> Call:
    import pyarrow
    from pyarrow import parquet

    path = at.path / "rows.parquet"
    texts = [chr(97 + i) * 2**22 for i in range(24)]
    parquet.write_table(pyarrow.table({"text": texts}), path, compression="zstd", use_dictionary=False)
    return reading(path)


@fault("a path where no file is", DataError, "no such file or folder, and it isn't the name of a hub data set")
def _(at: Place) -> Call:
    return at.train(data=at.path / "nothing.jsonl")


@fault("a folder without rows", DataError, "holds no file that ends in .jsonl")
def _(at: Place) -> Call:
    (at.path / "empty").mkdir()
    return at.train(data=at.path / "empty")


@fault("a field map that names a column that isn't there", RowError, "`fields` names the columns ['question']")
def _(at: Place) -> Call:
    return reading(at.rows(), fields={"prompt": "question", "completion": "completion"})


@fault("more bad rows than the cap", DataError, "more rows are bad than the 2 that `max_bad_rows` allows (3 not JSON)")
def _(at: Place) -> Call:
    return reading(at.rows(GOOD + "{\n" * 3), on_bad_row="skip", max_bad_rows=2)


@fault("rows of which every one is bad", DataError, "has no rows: all 3 are bad; the first:")
def _(at: Place) -> Call:
    return at.train(data=at.rows("{\n" * 3), data__on_bad_row="skip")


def _preparing(at: Place, rows: str, max_length: int = 64) -> Call:
    config, tokenizer = DataConfig(path=str(at.rows(rows))), load_tokenizer(at.originals.model)
    return lambda: prepare(config, tokenizer, max_length=max_length)


for words, rows, says in (
    ("replies that are all empty", chat(turn("user", "a"), turn("assistant", " ")), "1 rows: an empty reply"),
    ("completions that are all empty", '{"prompt": "a", "completion": ""}', "1 rows: an empty completion"),
    ("texts that are all empty", '{"text": " "}', "1 rows: an empty text"),
    ("conversations without a reply", chat(turn("user", "a")), "1 rows: no reply in it"),
    ("conversations without a turn", chat(), "1 rows: no reply in it"),
    (
        "questions that leave no room",
        chat(turn("user", "a" * 99), turn("assistant", "b")),
        "no learned token within",
    ),
):
    fault(words, DataError, says)(partial(_preparing, rows=rows))


@recovers("bad rows, with `on_bad_row: skip`", "left out, counted in the log, named in the report; the run completes")
def _(at: Place) -> Call:
    command = at.train(data=at.rows(GOOD_ROWS + '{\n{"text": "a"}\n'), data__on_bad_row="skip")

    def check() -> None:
        command()
        folder = RunFolder(at.path / "out")
        (read,) = (event for event in read_events(folder.events) if isinstance(event, DataRead))
        assert (read.rows, read.samples, read.bad) == (8, 8, {"not JSON": 1, "of another schema": 1})
        assert "line 9, byte" in folder.report.read_text(encoding="utf-8")

    return check


def _same(at: Place, content: bytes, name: str = "rows.jsonl") -> Call:
    good, odd = reading(at.rows(GOOD_ROWS, "good.jsonl")), reading(at.rows(content, name))

    def check() -> None:
        assert [example for _, example in odd()] == [example for _, example in good()]

    return check


for words, content in (
    ("a byte-order mark", b"\xef\xbb\xbf" + GOOD_ROWS.encode()),
    ("line ends of Windows", GOOD_ROWS.replace("\n", "\r\n").encode()),
    ("a last line without an end", GOOD_ROWS.encode().rstrip()),
    ("blank lines", GOOD_ROWS.replace("\n", "\n \n\n").encode()),
    ("NaN in a column that isn't used", GOOD_ROWS.replace("}", ', "score": NaN}').encode()),
):
    recovers(f"{words}, in a file of rows", "read as the file without")(partial(_same, content=content))


@recovers("a gigabyte line among good ones, with `on_bad_row: skip`", "left out and counted; the rest is read")
def _(at: Place) -> Call:
    path = at.rows(GOOD)
    with path.open("r+b") as file:
        file.seek(200 << 20)
        file.write(b"\n" + GOOD.encode())

    def check() -> None:
        assert len(list(load_examples(DataConfig(path=str(path), on_bad_row="skip")))) == 2

    return check
