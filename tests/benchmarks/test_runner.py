"""Running a case: every way in which a contender can end is recorded, and nobody else's row is touched by it."""

import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.case import HF, LIGER, QUATRAIN, UNSLOTH, Case, Contender, Kind, Play
from benchmarks.registry import CASES
from benchmarks.runner import Runner, environment

NOBODY = Contender("nobody", "Nobody", ("no_such_package_anywhere",))
NOTHING = Play(lambda setting: {})
WRITE = "import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps({report}))"
ROWS = {"step": {"samples_ms": [2.0, 4.0], "tokens": 30}}


def _case(*contenders: Contender, **changes) -> Case:
    plays = dict.fromkeys(contenders, NOTHING)
    common = {"kind": Kind("Examples", ""), "title": "an example", "device": "cpu", "options": {}}
    return Case(name="example", contenders=plays, **{**common, **changes})


@pytest.fixture
def runner(tmp_path: Path):
    """A runner whose contenders are Python programs by their names."""

    def make(programs: dict[str, str], **options) -> Runner:
        def command(case: Case, who: Contender, report: Path) -> list[str]:
            return [sys.executable, "-c", programs[who.name], str(report)]

        said: list[str] = []
        made = Runner(
            results=tmp_path / "results", models=tmp_path / "models", say=said.append, command=command, **options
        )
        return made

    return make


def _entries(runner: Runner) -> dict:
    return results.read(runner.results / "example.json")["contenders"]


def test_each_ending_is_recorded_and_loses_only_its_own_row(runner):
    liger, hf = Contender("liger", "Liger"), Contender("hf", "HF")
    unsloth, wrong = Contender("unsloth", "Unsloth"), Contender("wrong", "Wrong")
    told = {"machine": {"device": "x"}, "versions": {}, "gate": {"loss": 0.0}}
    programs = {
        "hf": "raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')",
        "liger": "import time; time.sleep(600)",
        "unsloth": WRITE.format(report=told | {"rows": ROWS}) + "; import os; os.abort()",
        "wrong": WRITE.format(report={"machine": {}, "wrong": "loss: relative error 1"}),
        "quatrain": WRITE.format(report=told | {"rows": ROWS}),
    }
    made = runner(programs, limit_s=3)
    made.run_case(_case(NOBODY, hf, liger, unsloth, wrong, QUATRAIN))
    entries = _entries(made)
    ended = {name: (entry["status"], entry["reason"]) for name, entry in entries.items()}
    assert ended == {
        "nobody": ("skipped", "not installed: no_such_package_anywhere"),
        "hf": ("failed", "out of memory"),
        "liger": ("timed out", "stopped after 3 s"),
        "unsloth": ("unchecked", "ended by SIGABRT"),
        "wrong": ("wrong", "loss: relative error 1"),
        "quatrain": ("measured", ""),
    }
    assert entries["quatrain"]["rows"]["step"]["ms"]["median"] == 3
    assert entries["quatrain"]["rows"]["step"]["tokens_per_second"] == 10_000
    assert entries["quatrain"]["gate"] == {"loss": 0.0} and entries["quatrain"]["machine"] == {"device": "x"}
    assert entries["unsloth"]["rows"] and "rows" not in entries["wrong"]


def test_our_own_figures_never_count_unchecked(runner):
    made = runner({"quatrain": WRITE.format(report={"rows": ROWS}) + "; raise ValueError('gate')"})
    made.run_case(_case(QUATRAIN))
    entry = _entries(made)["quatrain"]
    assert entry["status"] == "failed" and "rows" not in entry


def test_only_the_named_contenders_run_and_the_others_stay(runner):
    first = runner({"hf": WRITE.format(report={"rows": ROWS}), "quatrain": "raise ValueError('not yet')"})
    hf = Contender("hf", "HF")
    first.run_case(_case(hf, QUATRAIN))
    second = runner({"quatrain": WRITE.format(report={"rows": ROWS})})
    second.run_case(_case(hf, QUATRAIN), ["quatrain"])
    assert {name: entry["status"] for name, entry in _entries(second).items()} == {
        "hf": "measured",
        "quatrain": "measured",
    }


def test_rounds_are_joined(runner):
    made = runner({"quatrain": WRITE.format(report={"rows": ROWS})})
    made.run_case(_case(QUATRAIN, rounds=3))
    assert _entries(made)["quatrain"]["rows"]["step"]["ms"]["count"] == 6


def test_a_checkpoint_that_cant_be_made_is_everyones_reason(runner):
    made = runner({})
    made.run_case(_case(QUATRAIN, models=("no_such_model",)))
    entry = _entries(made)["quatrain"]
    assert entry["status"] == "failed" and "no checkpoint no_such_model: KeyError" in entry["reason"]


def test_environments(tmp_path: Path):
    found = environment(_case(QUATRAIN), tmp_path)
    assert found["CUDA_VISIBLE_DEVICES"] == "" and found["HF_HUB_OFFLINE"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in environment(_case(QUATRAIN, device="cuda"), tmp_path)
    assert found["TRITON_CACHE_DIR"].startswith(str(tmp_path))


def test_workers_measure_a_tiny_model_from_end_to_end(models: Path, tmp_path: Path):
    """Processes, gate, timing, memory and merging, as on a GPU; only the model is small."""
    made = Runner(results=tmp_path, models=models, quick=True, say=lambda _: None)
    made.run_case(CASES["selftest_training"], ["quatrain", "unsloth"])
    entries = results.read(tmp_path / "selftest_training.json")["contenders"]
    assert entries["unsloth"] == entries["unsloth"] | {"status": "skipped", "reason": "not installed: unsloth"}
    entry = entries["quatrain"]
    assert entry["status"] == "measured", entry["reason"]
    row = entry["rows"]["step"]
    assert row["ms"]["count"] == 2 and row["ms"]["min"] <= row["ms"]["median"] and row["allocated_gib"] > 0
    assert row["tokens_per_second"] == pytest.approx(128 / row["ms"]["median"] * 1e3, rel=1e-3)
    assert set(entry["gate"]) == {"loss", "gradient of lora_A", "gradient of lora_B"}
    assert entry["versions"]["quatrain"] and entry["machine"]["threads"] == "1" and entry["quick"]


def test_everyone_is_known_by_one_name():
    everyone = {who for case in CASES.values() for who in case.contenders}
    assert len({who.name for who in everyone}) == len({who.title for who in everyone}) == len(everyone)
    assert {HF, LIGER, UNSLOTH, QUATRAIN} <= everyone
