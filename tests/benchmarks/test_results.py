"""Result files: what rows become, and how entries merge."""

import json
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.case import HF, QUATRAIN, UNSLOTH, Case, Kind, Play, Row


def _case(**changes) -> Case:
    nothing = Play(lambda setting: {})
    settings = {
        "name": "example",
        "kind": Kind("Examples", "A note."),
        "title": "an example",
        "contenders": {HF: nothing, UNSLOTH: nothing, QUATRAIN: nothing},
        "device": "cpu",
        "options": {"length": 3},
    }
    return Case(**{**settings, **changes})


def _entry(status: str = "measured", **more) -> dict:
    return {"status": status, "reason": "", "when": "2026-01-01T00:00:00+00:00", **more}


def test_figures_of_rounds():
    first = {"step": Row(samples_ms=[10.0, 30.0], tokens=100, allocated_gib=1.5, values={"loss": 2.0})}
    second = {"step": Row(samples_ms=[20.0], tokens=100, allocated_gib=1.75)}
    row = results.figures([first, second])["step"]
    assert row["samples_ms"] == [10, 30, 20]
    assert row["ms"] == {"median": 20, "min": 10, "p10": 12, "p90": 28, "count": 3}
    assert row["tokens_per_second"] == 5000
    assert row["allocated_gib"] == 1.75 and row["loss"] == 2.0
    assert "teraflops" not in row and "reserved_gib" not in row


def test_rates_and_rows_without_times():
    rows = {"copy": Row(samples_ms=[2.0], bytes=8_000_000_000, flops=10**12), "text": Row(values={"perplexity": 4.0})}
    found = results.figures([rows])
    assert found["copy"]["terabytes_per_second"] == 4 and found["copy"]["gigabytes_per_second"] == 4000
    assert found["copy"]["teraflops"] == 500
    assert found["copy"]["ms"] == {"median": 2, "min": 2, "p10": 2, "p90": 2, "count": 1}
    assert found["text"] == {"perplexity": 4.0}


def test_entries_merge_and_keep_their_order(tmp_path: Path):
    case = _case()
    results.record(tmp_path, case, "quatrain", _entry(rows={"step": {"ms": 1}}))
    results.record(tmp_path, case, "hf", _entry(rows={"step": {"ms": 2}}))
    path = results.record(tmp_path, case, "quatrain", _entry(rows={"step": {"ms": 3}}))
    found = results.read(path)
    assert list(found["contenders"]) == ["hf", "quatrain"]
    assert found["contenders"]["quatrain"]["rows"]["step"]["ms"] == 3
    assert found["contenders"]["hf"]["rows"]["step"]["ms"] == 2
    assert found["options"] == {"length": 3} and found["floor"] is None


def test_a_missing_library_doesnt_displace_figures_but_a_failure_does(tmp_path: Path):
    case = _case()
    results.record(tmp_path, case, "unsloth", _entry("skipped"))
    results.record(tmp_path, case, "unsloth", _entry(rows={}))
    path = results.record(tmp_path, case, "unsloth", _entry("skipped"))
    assert results.read(path)["contenders"]["unsloth"]["status"] == "measured"
    results.record(tmp_path, case, "unsloth", _entry("timed out"))
    assert results.read(path)["contenders"]["unsloth"]["status"] == "timed out"


@pytest.mark.parametrize(
    ("ceilings", "expected"),
    [
        (None, None),
        ({"status": "failed"}, None),
        ({"status": "measured", "rows": {"other": {}}}, None),
        ({"status": "measured", "rows": {"copy": {"terabytes_per_second": 4.0}}}, {"step": {"ms": 8.0}}),
    ],
)
def test_floors_come_from_the_ceilings_beside_them(ceilings, expected, tmp_path: Path):
    if ceilings is not None:
        (tmp_path / "ceilings.json").write_text(json.dumps({"contenders": {"torch": ceilings}}))
    case = _case(floor=lambda rows: {"step": {"ms": 32 / rows["copy"]["terabytes_per_second"]}})
    path = results.record(tmp_path, case, "hf", _entry(rows={}))
    assert results.read(path)["floor"] == expected
