"""Files of verdicts: what is read, and what is refused with its place."""

import json
from pathlib import Path

import pytest

from quatrain.errors import DataError
from quatrain.evaluation.judging import Verdict, read_verdicts

HEAD = "model_a,model_b,item,verdict\n"


def written(folder: Path, text: str, name: str = "verdicts.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    rows = [("x", "y", "1", "a"), ("y", "x", "1", "tie"), ("x", "y", "2", "unparsed")]
    csv = written(tmp_path, HEAD + "".join(",".join(row) + "\n" for row in rows))
    keys = ("model_a", "model_b", "item", "verdict")
    lines = [{**dict(zip(keys, row, strict=True)), "item": int(row[2]), "reply": "…"} for row in rows]
    jsonl = written(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "verdicts.jsonl")
    assert read_verdicts(csv) == read_verdicts(jsonl) == [Verdict(*row) for row in rows]  # pyright: ignore


def test_a_swapped_verdict_says_the_same_of_the_other_order() -> None:
    assert Verdict("x", "y", "1", "a").swapped == Verdict("y", "x", "1", "b")
    for outcome in ("tie", "unparsed"):
        assert Verdict("x", "y", "1", outcome).swapped == Verdict("y", "x", "1", outcome)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "x,y,1,a\nx,y,2,A\n", r"line 3, byte \d+: `verdict` must be one of a, b, tie, unparsed, found 'A'"),
        (HEAD + "x,x,1,a\n", "line 2.*are both 'x'"),
        (HEAD + "x,y,1,a\nx,y,1,b\n", "line 3.*a second time"),
        (HEAD + "x,,1,a\n", "line 2.*`model_b` must be a name or a number, found ''"),
        ("model_a,model_b,verdict\nx,y,a\n", "`item` must be a name or a number, found None"),
        (HEAD, "holds no verdicts; its rows must have the columns model_a, model_b, item, verdict"),
        ("", "holds no verdicts"),
    ],
)
def test_what_is_no_verdict_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_verdicts(written(tmp_path, text))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", written(tmp_path, HEAD, "verdicts.txt")):
        with pytest.raises(DataError, match=r"ends in \.jsonl"):
            read_verdicts(path)
