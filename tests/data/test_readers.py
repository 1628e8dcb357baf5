"""Files become rows, and whatever is wrong with one is named by file, line and reason."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quatrain.data import DataConfig, lines
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
    assert read[1].where == f"{tmp_path}/a.parquet, row 2"
    write(tmp_path / "b.parquet", b"PAR1 is how it begins, but no more")
    with pytest.raises(DataError, match="can't be read as Parquet"):
        values(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: a row must be a JSON object with named columns, got list"),
        ("a.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "line 1: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2: byte 0xff at column 8 isn't UTF-8"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "line 1: byte 0xff at column 1 isn't UTF-8"),
        ("a.json", '[{"a": 1},\n\n {"a" 2}]', "line 3: not valid JSON"),
        ("a.json", '[{"a": 1},\n 2]', "line 2: a row must be a JSON object"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"line 1: after this element, ',' or '\]' must follow"),
        ("a.json", '[{"a": 1},', "line 1: not valid JSON"),
        ("a.json", '[{"a": 1}', r"line 1: after this element"),
        ("a.json", '[{"a": 1}] []', "something follows after the array's end"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 fields, but the first line names 2 columns"),
        ("a.csv", 'a,b\n"x\ny",2\n1\n', "line 4: 1 fields"),
        ("a.csv", 'a,b\n1,"2\n', "not valid CSV"),
        ("a.csv", "a,a\n1,2\n", "line 1: a column name occurs twice"),
    ],
)
def test_a_bad_row_is_named(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as error:
        values(path)
    assert str(path) in str(error.value)


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
    with pytest.raises(DataError, match="line 2: the line is longer than"):
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
