"""The page: what is shown of figures, targets, floors and of everything that went wrong."""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import cells, results
from benchmarks.readme import README, write_readme
from benchmarks.registry import CASES
from benchmarks.table import write_table

MACHINE = {"device": "Card", "memory": "140 GiB"}


def _measured(ms: float, gib: float, **more) -> dict:
    rows = {"step": {"ms": {"median": ms}, "allocated_gib": gib, "reserved_gib": gib}}
    common = {"status": "measured", "reason": "", "when": "2026-01-02T03:04:05+00:00", "quick": False, "rows": rows}
    return common | {"machine": MACHINE, "versions": {"torch": "2.11"}} | more


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("ms", {"median": 0.0138}, "13.8 µs"),
        ("ms", 14e-3, "14.0 µs"),
        ("ms", {"median": 5.0}, "5.00 ms"),
        ("ms", {"median": 406.4}, "406 ms"),
        ("ms", {"median": 1609.0}, "1,609 ms"),
        ("ms", 13_200, "13.2 s"),
        ("allocated_gib", 33, "33 GiB"),
        ("tokens_per_second", 1800, "1,800 tokens/s"),
        ("terabytes_per_second", 3.5, "3.50 TB/s"),
        ("perplexity", 4.0911, "4.09"),
        ("teraflops", 0.0, "0.00 TFLOP/s"),
        ("last_loss", 0.8312, "0.831"),
    ],
)
def test_amounts(metric: str, value, text: str):
    assert cells.amount(metric, value) == text


def test_targets():
    bounds = {"ms": 450, "reserved_gib": 33}
    assert cells.target(bounds) == "≤ 450 ms, ≤ 33 GiB held"
    assert cells.target({"tokens_per_second": 300}) == "≥ 300 tokens/s"
    assert cells.reached({"ms": {"median": 450.0}, "reserved_gib": 32.9}, bounds)
    assert not cells.reached({"ms": {"median": 449.0}, "reserved_gib": 33.1}, bounds)
    assert cells.reached({"tokens_per_second": 301.0}, {"tokens_per_second": 300})
    assert not cells.reached({"tokens_per_second": 299.0}, {"tokens_per_second": 300})


def test_a_page(tmp_path: Path):
    case = CASES["train_8b_4x2048"]
    contenders = {
        "hf": {"status": "failed", "reason": "out of memory", "when": "2026-01-02T00:00:00+00:00"},
        "liger": {"status": "skipped", "reason": "not installed: liger_kernel", "when": "2026-01-02T00:00:00+00:00"},
        "unsloth": _measured(527.2, 35.94, status="unchecked", reason="RuntimeError: gate"),
        "quatrain": _measured(431.0, 31.2, machine=MACHINE | {"device": "Other"}, quick=True),
    }
    results.write(tmp_path, case, contenders)
    page = tmp_path / "page.md"
    write_table(tmp_path, page)
    text = page.read_text()
    head, _, row = [line for line in text.splitlines() if line.startswith("|")]
    assert head == (
        "| case | target | bitsandbytes + PEFT | bitsandbytes + PEFT + Liger | Unsloth | Quatrain | floor |"
    )
    assert row == (
        "| 8B, 4×2048, nothing recomputed | ≤ 450 ms, ≤ 33 GiB held | out of memory | not installed | "
        "527 ms, 35.9 GiB, 35.9 GiB held (unchecked) | 431 ms, 31.2 GiB, 31.2 GiB held ✓ (quick) | – |"
    )
    assert "- 8B, 4×2048, nothing recomputed, bitsandbytes + PEFT: failed, out of memory.\n" in text
    assert "Unsloth: unchecked, RuntimeError: gate." in text
    assert "Measured on: device Card, memory 140 GiB; Unsloth; 2026-01-02; torch 2.11." in text
    assert "Measured on: device Other, memory 140 GiB; Quatrain; 2026-01-02; torch 2.11." in text


def test_floors_are_brought_up_to_date(tmp_path: Path):
    results.write(tmp_path, CASES["load_8b"], {})
    rows = {"host to device": {"gigabytes_per_second": 50.0}}
    ceilings = {"torch": _measured(1, 1) | {"rows": rows}}
    results.write(tmp_path, CASES["ceilings"], ceilings)
    write_table(tmp_path, tmp_path / "page.md")
    assert results.read(tmp_path / "load_8b.json")["floor"]["load"]["ms"] == pytest.approx(321.2, abs=0.1)
    text = (tmp_path / "page.md").read_text()
    assert "| 8B, load and quantize | ≤ 2,500 ms | – | – | – | 321 ms |" in text
    assert "| host to device | 50.0 GB/s |" in text  # no columns for targets and floors where there are none


def test_the_page_in_docs_is_what_the_result_files_give(tmp_path: Path):
    copies = shutil.copytree(results.RESULTS, tmp_path / "results")
    write_table(copies, tmp_path / "page.md")
    root = Path(__file__).parents[2]
    assert (tmp_path / "page.md").read_text() == (root / "docs" / "benchmarks.md").read_text()


def test_the_readme_says_what_the_result_files_say(tmp_path: Path):
    page = tmp_path / "README.md"
    emptied = re.sub(r"(<!-- measured[^>]*-->\n).*?(<!-- /measured)", r"\1\2", README.read_text(), flags=re.DOTALL)
    page.write_text(emptied)
    write_readme(results.RESULTS, page)
    assert page.read_text() == README.read_text() != emptied
