"""Small files of others are read whole, as data, and only from where they belong."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quatrain.untrusted import file_in, parse_json, parse_yaml, read_json, read_text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_bounded_yaml_is_pyyamls(value: object) -> None:
    text = yaml.safe_dump(value)
    if "*id" not in text:
        assert parse_yaml(text) == yaml.safe_load(text)


def test_an_alias_is_read_and_merged() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


@pytest.mark.parametrize(
    "text", ["a: &x [1]\nb: &y [*x]", "&x [*x]", "[" * 3000, "!!python/name:os.system", "a: [", "a: *x"]
)
def test_yaml_that_grows_or_runs_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_yaml(text)


def test_a_file_larger_than_its_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('"1234"')
    assert read_json(tmp_path / "a", most_bytes=6) == "1234"
    with pytest.raises(ValueError, match="more than 5 bytes"):
        read_text(tmp_path / "a", most_bytes=5)


def test_deep_json_is_no_crash() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_names_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").touch()
    (tmp_path / "b").touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "b")
    (tmp_path / "in" / "inner").symlink_to("a")
    assert file_in(tmp_path / "in", "a").name == "a" and file_in(tmp_path / "in", "inner").name == "inner"
    for name in ("../b", str(tmp_path / "b"), "", ".", "..", "x/y", "x\\y", "a\0", "link"):
        with pytest.raises(ValueError):
            file_in(tmp_path / "in", name)
    for name in ("missing", "x" * 5000):
        with pytest.raises(FileNotFoundError):
            file_in(tmp_path / "in", name)
