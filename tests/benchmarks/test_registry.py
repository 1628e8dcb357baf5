"""The registry: the issue's cases with their targets, selection by name, and the command line."""

import pickle
import subprocess
import sys

import pytest

from benchmarks import __main__ as program
from benchmarks.case import COPY, QUATRAIN, SIXTEEN_BITS, TORCH
from benchmarks.measurements import adapter_starts, fused_curve, streaming
from benchmarks.registry import CASES, select


def test_targets_of_the_fastest_step():
    """One H200, 8B = Llama-3.1-8B shape."""
    others = {"plan_accuracy", *streaming.LARGE}
    targets = {name: case.target for name, case in CASES.items() if case.target and name not in others}
    assert targets == {
        "train_8b_4x2048": {"step": {"ms": 450, "reserved_gib": 33}},
        "train_8b_4x2048_small": {"step": {"ms": 650, "allocated_gib": 7.8}},
        "train_8b_1x2048": {"step": {"ms": 140, "reserved_gib": 14}},
        "train_8b_paper": {"step": {"ms": 550}},
        "train_1b_4x2048": {"step": {"ms": 98}},
        "train_1b_1x1024": {"step": {"ms": 18}},
        "train_8b_1x65536": {"step": {"ms": 13_200, "reserved_gib": 24}},
        "load_8b": {"load": {"ms": 2500}},
        "start_8b": {"start": {"ms": 15_000}},
        "decode_8b": {"batch 1": {"tokens_per_second": 300}, "batch 8": {"tokens_per_second": 1800}},
        "dequantize": {
            "4096×14336": {"terabytes_per_second": 3.5},
            "28672×8192": {"terabytes_per_second": 3.5},
        },
        "product_4bit": {"4096×14336, M = 1": {"ms": 0.014}},
    }


def test_cases_are_consistent():
    for name, case in CASES.items():
        assert case.name == name
        assert case.listed or name.startswith(("selftest", "fused_curve_cpu"))
        ours = (
            QUATRAIN,
            TORCH,
            COPY,
            SIXTEEN_BITS,
            fused_curve.FUSED,
            fused_curve.AUTOGRAD,
            fused_curve.EXACT,
            *adapter_starts.STARTS,
        )
        assert all(who.requires or who in ours for who in case.contenders)
        pickle.dumps(case.options)


def test_a_worker_imports_no_ones_library():
    """Each contender loads its own; Unsloth must come before transformers."""
    code = "import benchmarks.worker, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "torch" in loaded
    assert not {"transformers", "peft", "bitsandbytes", "unsloth", "liger_kernel", "triton"} & set(loaded)


def test_selection():
    assert [case.name for case in select(["train_1b_*", "ceilings"])] == [
        "ceilings",
        "train_1b_4x2048",
        "train_1b_1x1024",
    ]
    assert select(["selftest_training"])[0].name == "selftest_training"
    everything = [case.name for case in select([])]
    assert everything[0] == "ceilings" and not any(name.startswith("selftest") for name in everything)
    with pytest.raises(LookupError, match="'tain_8b'"):
        select(["tain_8b"])
    with pytest.raises(LookupError, match="selftest"):
        select(["selftest*"])


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    program.main()


def test_listing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    _run(monkeypatch, "--list", "train_8b_paper*")
    shown = capsys.readouterr().out
    assert "train_8b_paper " in shown and "contenders: hf, unsloth, quatrain" in shown and "optimizer" not in shown


@pytest.mark.parametrize("arguments", [["no_such_case"], ["dequantize", "--contender", "unsloth"]])
def test_unknown_names(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        _run(monkeypatch, *arguments)
    assert ended.value.code == 2 and arguments[-1] in capsys.readouterr().err


def test_only_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path):
    _run(monkeypatch, "--table", "--results", str(tmp_path))
    assert (tmp_path / "benchmarks.md").read_text().startswith("# Benchmarks")


def test_a_case_for_a_gpu_is_named_and_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys):
    monkeypatch.setattr(program.torch.cuda, "is_available", lambda: False)
    _run(monkeypatch, "dequantize", "--results", str(tmp_path), "--checkpoints", str(tmp_path))
    assert "dequantize: skipped, it needs a CUDA device" in capsys.readouterr().out
    assert not (tmp_path / "dequantize.json").exists()
