"""Files become rows, and whatever is wrong with one is named by file, line and reason."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quatrain.data import DataConfig, json_rows, lines
from quatrain.data.bad_rows import BadRows
from quatrain.data.readers import read_file
from quatrain.errors import DataError

STOP = BadRows(DataConfig(path="any"))
ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "ü 🦊", "completion": 'line\nend "quoted", \u2028'}]
FROM_DISK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def write(path, content: bytes | str):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def values(path) -> list[dict]:
    return [row.values for row in read_file(path, STOP)]


def as_csv(rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_lines(rows, end="\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", as_lines(ROWS)),
        ("a.JSONL", as_lines(ROWS)),
        ("a.jsonl.gz", as_lines(ROWS)),
        ("a.json", as_lines(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.json.gz", json.dumps(ROWS)),
        ("a.csv", as_csv(ROWS)),
        ("a.csv.gz", as_csv(ROWS)),
        ("crlf.jsonl", as_lines(ROWS, "\r\n")),
        ("no-end.jsonl", as_lines(ROWS).rstrip("\n")),
        ("gaps.jsonl", "\n" + as_lines(ROWS, "\n  \n")),
        ("bom.jsonl", "\ufeff" + as_lines(ROWS)),
        ("bom.json", "\ufeff" + json.dumps(ROWS)),
        ("bom.csv", "\ufeff" + as_csv(ROWS)),
    ],
)
def test_the_same_rows_from_every_kind_of_file(tmp_path, name, content):
    assert values(write(tmp_path / name, content)) == ROWS


def test_parquet(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [{"messages": [{"role": "user", "content": "ü"}]}, {"messages": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = list(read_file(tmp_path / "a.parquet", STOP))
    assert [row.values for row in read] == rows
    assert str(read[1].where) == f"{tmp_path}/a.parquet, row 2"
    write(tmp_path / "b.parquet", b"PAR1 is how it begins, but no more")
    with pytest.raises(DataError, match="can't be read as Parquet"):
        values(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2, byte 15: not valid JSON: Expecting value"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2, byte 9: a row must be a JSON object with named columns, got list"),
        ("a.jsonl", '{"ü": 1} 7', "line 1, byte 10: not valid JSON: Extra data"),
        ("a.jsonl", "[" * 100_000, "line 1, byte 0: lists and objects are nested more than 200 deep"),
        ("a.jsonl", '{"a": ' + "[" * 200 + "]" * 200 + "}", "line 1, byte 0: lists and objects are nested"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "line 1, byte 0: a number has 5,000 digits"),
        ("a.jsonl", '{"a": {"b": 1, "b": 2}}', "line 1, byte 0: the key 'b' occurs twice"),
        ("a.jsonl", b'\xef\xbb\xbf{"a": 1}\n{"a": "\xff"}\n', "line 2, byte 19: byte 0xff isn't UTF-8"),
        ("a.jsonl", b'\xef\xbb\xbf{"a" 1}\n', "line 1, byte 8: not valid JSON"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "line 1, byte 0: byte 0xff isn't UTF-8"),
        ("a.json", '[{"a": 1},\n\n {"a" 2}]', "line 3, byte 18: not valid JSON"),
        ("a.json", '[{"ü": 1},\n 2]', "line 2, byte 13: a row must be a JSON object"),
        ("a.json", '[{"a": 1, "a": 1}]', "line 1, byte 1: the key 'a' occurs twice"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"line 1, byte 1: after this element, ',' or '\]' must follow"),
        ("a.json", '[{"a": 1},', "line 1, byte 10: not valid JSON"),
        ("a.json", '[{"a": 1}', r"line 1, byte 1: after this element"),
        ("a.json", '[{"a": 1}] []', "something follows after the array's end"),
        ("a.json", b'[{"a": 1},\n{"a": "\xff"}]', "line 2, byte 18: byte 0xff isn't UTF-8"),
        ("a.json", b'[{"a": "\xc3', "line 1, byte 8: byte 0xc3 isn't UTF-8"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3, byte 8: 3 fields, but the first line names 2 columns"),
        ("a.csv", 'a,b\n"x\ny",2\n1\n', "line 4, byte 12: 1 fields"),
        ("a.csv", 'a,b\n1,"2\n', "line 2, byte 4: not valid CSV"),
        ("a.csv", "a,a\n1,2\n", "line 1, byte 0: a column name occurs twice"),
    ],
)
def test_a_bad_row_is_named(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as error:
        values(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "kinds"),
    [
        ("a.jsonl", '{"a": 1}\n{\n[]\n{"a": 2}\n', {"not JSON": 1, "not an object": 1}),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n{"a": 2}', {"not UTF-8": 1}),
        ("a.json", '[{"a": 1}, 3, {"a": 1, "a": 2}, {"a": 2}]', {"not an object": 1, "a key that occurs twice": 1}),
        ("a.csv", 'a\n1\n2,3\n"4"5\n2\n', {"another number of fields": 1, "not CSV": 1}),
        ("a.csv", b"a\n1\n\xff\n2\n", {"not UTF-8": 1}),
    ],
)
def test_bad_rows_can_be_left_out_and_are_counted(tmp_path, name, content, kinds):
    bad = BadRows(DataConfig(path="any", on_bad_row="skip"))
    rows = list(read_file(write(tmp_path / name, content), bad))
    assert [int(row.values["a"]) for row in rows] == [1, 2]
    assert bad.counts == kinds and len(bad.first) == sum(kinds.values())


def test_rows_after_a_line_that_is_too_long_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    bad = BadRows(DataConfig(path="any", on_bad_row="skip"))
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n' + "x" * 5001 + '\n{"a": 2}\n' + "x" * 1001 + '\n{"a": 3}\n')
    rows = list(read_file(path, bad))
    assert [(row.values["a"], row.where.number, row.where.byte) for row in rows] == [
        (1, 1, 0),
        (2, 3, 5011),
        (3, 5, 6022),
    ]
    assert bad.counts == {"lines that are too long": 2}


def test_more_bad_rows_than_the_cap_are_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n' + "{\n" * 4)
    config = DataConfig(path="any", on_bad_row="skip", max_bad_rows=3)
    with pytest.raises(DataError, match=r"more rows are bad than the 3 .*4 not JSON\); the last: .*line 5, byte 16"):
        list(read_file(path, BadRows(config)))


@pytest.mark.parametrize("chunk", [3, 4, 5, 11])
def test_an_array_is_read_through_a_small_window(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    rows = [*ROWS, {"a": 12}, {"a": [{"b": "]},"}]}]
    for indent in (None, 1):
        path = write(tmp_path / "a.json", "\ufeff" + json.dumps(rows, indent=indent, ensure_ascii=False))
        read = list(read_file(path, STOP))
        assert [row.values for row in read] == rows
        content = path.read_bytes()
        for row in read:
            assert content[row.where.byte :].startswith(b"{")
            assert row.where.number == content[: row.where.byte].count(b"\n") + 1


def test_a_broken_gzip_file(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(as_lines(ROWS * 100).encode())[:-20])
    with pytest.raises(DataError, match="can't be read"):
        values(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"can't be read: Not a gzipped file"):
        values(path)


def test_lines_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    with pytest.raises(DataError, match="line 2, byte 9: the line is longer than"):
        values(write(tmp_path / "a.jsonl.gz", '{"a": 1}\n{"a": "' + "x" * 5000 + '"}\n'))


def test_long_csv_fields_are_read_and_the_process_wide_limit_stays(tmp_path):
    before = csv.field_size_limit()
    assert values(write(tmp_path / "a.csv", "a\n" + "x" * 300_000 + "\n")) == [{"a": "x" * 300_000}]
    assert csv.field_size_limit() == before


def test_empty_files_have_no_rows(tmp_path):
    for name, content in (("a.jsonl", ""), ("a.json", "[ ]"), ("a.json", ""), ("a.csv", ""), ("b.csv", "a,b\n")):
        assert values(write(tmp_path / name, content)) == []


@FROM_DISK
@given(rows=st.lists(st.dictionaries(TEXT, JSON_VALUE, max_size=3), max_size=5), indent=st.sampled_from([None, 1]))
def test_any_json_comes_back(tmp_path, rows, indent):
    lines = "\n".join(json.dumps(row) for row in rows)
    assert values(write(tmp_path / "a.jsonl", lines)) == rows
    assert values(write(tmp_path / "a.json", json.dumps(rows, indent=indent))) == rows


@FROM_DISK
@given(
    columns=st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=2, max_size=4, unique=True),
    data=st.data(),
)
def test_any_csv_comes_back(tmp_path, columns, data):
    # A bare carriage return inside a field is a line end to the csv module's writer, so it comes back quoted.
    row = st.fixed_dictionaries({column: TEXT.filter(lambda text: "\r" not in text) for column in columns})
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    assert values(write(tmp_path / "a.csv", as_csv(rows))) == rows


@FROM_DISK
@given(content=st.binary(max_size=200), name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"]))
def test_garbage_is_rows_or_a_data_error(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    try:
        assert all(isinstance(row, dict) for row in values(path))
    except DataError as error:
        assert str(path) in str(error)
