"""The whole program with a measure that costs nothing: what is measured when, resumed, and shown."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import __main__ as program
from benchmarks.quality import study
from benchmarks.quality.cell import Cell, OutOfTime, Where
from benchmarks.quality.page import write_page
from benchmarks.quality.results import read
from benchmarks.quality.tables import TABLES, learning_rates


def invented(cell: Cell, where: Where) -> tuple[dict[str, Any], float]:
    """Figures of the right kinds; the lowest loss is that of the middle rate."""
    settings = dict(cell.settings)
    if cell.measure == "four_bits":
        texts = {f"{task}_{what}": 4.0 for task in where.data for what in ("loss", "perplexity")}
        return {"linear_bits": 4.5, "model_bits": 6.0, "normal_error": 0.09, **texts}, 0.0
    middle = learning_rates.FIRST[settings["method"]]
    loss = 1.0 + abs(settings["learning_rate"] - middle) + settings["seed"] / 1000
    found = {
        "loss": loss,
        "step_ms": 10.0,
        "state_bytes": 2**20,
        "peak_gib": 1.0,
        "trained": 100,
        "base_parameters": 999,
    }
    return found | {"number_match": 0.25, "losses": [2.0, 1.0]}, 0.0


@pytest.fixture
def call(texts, monkeypatch):
    """Calls the program."""
    monkeypatch.setenv("GSM8K", texts["gsm8k"])
    monkeypatch.setenv("OASST", texts["oasst"])
    monkeypatch.setattr(study, "measure", invented)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["quality", "--device", "cpu", "--model", "base", *arguments])
        return program.main()

    return run


@pytest.mark.parametrize("size", [[], ["--quick"]])
def test_every_table_is_measured_resumed_and_written(call, size: list[str], tmp_path: Path, capsys):
    results = tmp_path / "results"
    assert call("--results", str(results), *size) == 0
    assert "0 cells are left, 0 failed" in capsys.readouterr().out
    before = {path: path.read_text() for path in results.iterdir()}
    assert {path.stem for path in before} == TABLES.keys()
    assert call("--results", str(results), *size) == 0
    assert {path: path.read_text() for path in before} == before
    assert capsys.readouterr().out.startswith("0 cells are left")
    page = tmp_path / "page.md"
    page.write_text("\n".join(f"<!-- measured: {name} -->\n<!-- /measured -->" for name in TABLES))
    write_page(results, page)
    seeds = "Seeds 1;" if size else "Seeds 1, 2, 3;"
    text = page.read_text()
    assert text.count("Seeds 1;") + (text.count(seeds) if not size else 0) == len(TABLES)
    assert "Not measured" not in text and "nan" not in text


def test_everyone_trains_at_the_rate_that_won(call, tmp_path: Path):
    call("--results", str(tmp_path), "parity", "--seeds", "1", "2")
    assert {path.stem for path in tmp_path.iterdir()} == {"learning_rates", "parity"}
    rows = read(tmp_path / "parity.json")["rows"]
    assert {row["seed"] for row in rows} == {1, 2}
    assert all(row["learning_rate"] == learning_rates.FIRST[row["method"]] for row in rows)


def test_what_comes_too_late_is_left_for_the_next_call(call, tmp_path: Path, monkeypatch, capsys):
    def late(cell: Cell, where: Where) -> tuple[dict[str, Any], float]:
        if cell.settings["block_size"] > 64:
            raise OutOfTime
        return invented(cell, where)

    monkeypatch.setattr(study, "measure", late)
    assert call("--results", str(tmp_path), "data_types") == 0
    assert "12 cells are left, 0 failed" in capsys.readouterr().out
    monkeypatch.setattr(study, "measure", invented)
    call("--results", str(tmp_path), "data_types")
    assert len(read(tmp_path / "data_types.json")["rows"]) == 25


def test_a_cell_that_fails_is_told_and_costs_no_other(call, tmp_path: Path, monkeypatch, capsys):
    def failing(cell: Cell, where: Where) -> tuple[dict[str, Any], float]:
        if cell.settings["quantization"] is None:
            raise ValueError("no such weights")
        return invented(cell, where)

    monkeypatch.setattr(study, "measure", failing)
    assert call("--results", str(tmp_path), "data_types") == 1
    assert "ValueError: no such weights" in capsys.readouterr().out
    assert len(read(tmp_path / "data_types.json")["rows"]) == 24


def test_figures_of_two_devices_dont_mix(call, tmp_path: Path, capsys):
    call("--results", str(tmp_path), "data_types")
    path = tmp_path / "data_types.json"
    path.write_text(path.read_text().replace('"device": "', '"device": "another '))
    assert call("--results", str(tmp_path), "data_types") == 1
    assert "figures of two devices" in capsys.readouterr().err


def test_a_mistyped_table_is_named(call, capsys):
    with pytest.raises(SystemExit):
        call("paritty")
    assert "no table is called paritty" in capsys.readouterr().err


def test_a_rehearsal_stays_out_of_what_is_published(call, capsys):
    with pytest.raises(SystemExit):
        call("--quick")
    assert "--results" in capsys.readouterr().err


def test_a_rate_that_has_lost_is_trained_again(call, tmp_path: Path, monkeypatch):
    call("parity", "--results", str(tmp_path), "--seeds", "1")
    before = read(tmp_path / "parity.json")["rows"]
    grid = tmp_path / "learning_rates.json"
    content = read(grid)
    rows = [r | {"loss": 0.5} if r["learning_rate"] == 3e-5 and r["task"] == "gsm8k" else r for r in content["rows"]]
    grid.write_text(json.dumps(content | {"settings": {}, "rows": rows}))
    call("parity", "--results", str(tmp_path), "--seeds", "1")
    after = read(tmp_path / "parity.json")["rows"]
    full = [r["learning_rate"] for r in after if r["method"] == "full" and r["task"] == "gsm8k"]
    assert full == [3e-5] and len(after) == len(before)
