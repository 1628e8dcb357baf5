"""Each kind of measurement on a CPU, with small shapes and, for kernels, a clock that only launches."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend

from benchmarks.case import Setting, WrongResult
from benchmarks.libraries import ours
from benchmarks.measurements import (
    ceilings,
    cpu_attention,
    decoding,
    dequantizing,
    loading,
    loss_curves,
    optimizing,
    products,
    starting,
    training,
)
from benchmarks.shapes import SHAPES
from benchmarks.timing import step_ms, summary


@pytest.fixture
def launch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs every set of buffers once in place of GPU events."""

    def kernel_ms(launch: Callable[[int], object], *, rotation: int = 4, launches: int = 16, rounds: int = 9):
        for i in range(rotation):
            launch(i)
        return [1.0] * rounds

    for module in (ceilings, dequantizing, products):
        monkeypatch.setattr(module, "kernel_ms", kernel_ms)


def test_training_times_fresh_steps(setting: Setting):
    row = training.measure(ours.QuatrainTraining, training.FOR_TESTS, setting)["step"]
    assert len(row.samples_ms) == 2 and min(row.samples_ms) > 0
    assert row.tokens == 128 and row.allocated_gib is not None and row.reserved_gib is None


def test_loading(setting: Setting):
    row = loading.measure(ours.imports, ours.load, "tiny", setting)["load"]
    assert len(row.samples_ms) == 1 and row.bytes == SHAPES["tiny"].bytes_16bit
    assert loading.gate(ours.load, "tiny", setting)["loss"] < 2e-3


def test_starting_ends_with_the_third_equal_step(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    setting = replace(setting, started=time.time())
    times = iter([900.0, 50.0, 20.0, 21.0, 20.5, 1.0])
    monkeypatch.setattr(starting, "timed_step", lambda *_: next(times))
    row = starting.measure(ours.QuatrainTraining, starting.FOR_TESTS, setting)["start"]
    assert row.values["steps_ms"] == [900, 50, 20, 21, 20.5]
    assert row.samples_ms[0] >= row.values["opened_ms"] - 0.1 > 0


def test_starting_gives_up(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    growing = iter(1.5**i for i in range(starting.MOST_STEPS + 1))
    monkeypatch.setattr(starting, "timed_step", lambda *_: next(growing))
    with pytest.raises(RuntimeError, match="no three equal steps"):
        starting.measure(ours.QuatrainTraining, starting.FOR_TESTS, setting)


def test_decoding(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "PROMPT", 5)
    monkeypatch.setattr(decoding, "LONG", 20)
    rows = decoding.measure(ours.load_for_decoding, ours.decode, "tiny", setting)
    assert [row.tokens for row in rows.values()] == [1, 8]
    assert all(len(row.samples_ms) == 2 for row in rows.values())
    decoding.gate(ours.load_for_decoding, ours.decode, "tiny", setting)


@pytest.mark.usefixtures("launch_only")
@pytest.mark.parametrize("make", dequantizing.CONTENDERS.values())
def test_dequantizing(make: dequantizing.Make, setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dequantizing, "SHAPES", ((128, 192),))
    row = dequantizing.measure(make, setting)["128×192"]
    assert row.bytes == int(128 * 192 * (0.5 + 1 / 64 + 1 / 4096 + 2)) and len(row.samples_ms) == 3


@pytest.mark.usefixtures("launch_only")
@pytest.mark.parametrize("how", products.CONTENDERS.values())
def test_products(how, setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "SHAPES", ((192, 256), (64, 128)))
    make, quantized = how
    rows = products.measure(make, quantized, setting)
    shapes = ("192×256", "64×128")
    assert list(rows) == [f"{shape}, M = {m}" for shape in shapes for m in (1, 4, 8, 16, 32)]
    assert all(row.values["error"] < 1e-2 for row in rows.values())


@pytest.mark.usefixtures("launch_only")
def test_a_wrong_product_is_found(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "SHAPES", ((192, 256), (64, 128)))
    with pytest.raises(WrongResult, match="M = 1"):
        products.measure(lambda dense: lambda x: 1.02 * (x @ dense.T), False, setting)


@pytest.mark.parametrize("makes_of", optimizing.MAKERS.values())
def test_optimizing(makes_of, setting: Setting, monkeypatch: pytest.MonkeyPatch):
    rows = optimizing.measure(makes_of, "tiny", 4, setting)
    assert all(len(row.samples_ms) == 10 and row.values["error"] < 2e-2 for row in rows.values())
    assert set(rows) <= {"8-bit", "32-bit"}


def test_an_optimizer_that_goes_elsewhere_is_found(setting: Setting):
    def slow(on_gpu: bool) -> dict[str, optimizing.Make]:
        return {"8-bit": lambda parameters: torch.optim.AdamW(parameters, lr=0.9e-4, weight_decay=0.0)}

    with pytest.raises(WrongResult, match="of the way"):
        optimizing.measure(slow, "tiny", 4, setting)


@pytest.mark.parametrize("attend", cpu_attention.CONTENDERS.values())
def test_cpu_attention(attend: cpu_attention.Attend, setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu_attention, "LENGTHS", (64, 128))
    rows = cpu_attention.measure(attend, setting)
    assert list(rows) == ["64 tokens", "128 tokens"]
    assert all(max(row.values["errors_out_q_k_v"]) < 1e-2 for row in rows.values())


@pytest.mark.usefixtures("launch_only")
def test_ceilings_of_products_and_attention(setting: Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ceilings, "BACKENDS", {SDPBackend.MATH: lambda _: True, SDPBackend.FLASH_ATTENTION: bool})
    shape = SHAPES["tiny"]
    row = ceilings._products(shape, 64, setting)
    assert row.flops == 2 * 2 * 64 * shape.linear_parameters // shape.blocks
    forward, backward = ceilings._attention(shape, 2, 32, setting)
    assert forward.flops is not None and forward.flops == 4 * 2 * 32 * 32 * shape.heads * shape.head_size // 2
    assert backward.flops == forward.flops * 5 // 2


def test_both_sides_of_a_loss_curve_start_alike():
    adapters = [{f"m.{half}": torch.full((3, 8), float("nan")) for half in ("lora_A", "lora_B")} for _ in range(2)]
    for adapter in adapters:
        loss_curves.start(adapter)
    assert torch.equal(adapters[0]["m.lora_A"], adapters[1]["m.lora_A"])
    assert adapters[0]["m.lora_A"].std() > 0 and not adapters[0]["m.lora_B"].any()


def test_remark_on_loss_curves():
    case = loss_curves.CASES[0]
    entries = {
        "quatrain": {"rows": {"loss curve": {"losses": [2.0, 1.0]}}},
        "hf": {"rows": {"loss curve": {"losses": [2.5, 1.0]}}},
    }
    assert "at most 20.0000%" in loss_curves.remark(case, entries)
    assert loss_curves.remark(case, {"quatrain": entries["quatrain"]}) == ""


@pytest.mark.filterwarnings("ignore")  # the peer's own, which are not ours to fix
def test_both_sides_of_a_loss_curve_train_alike(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Four steps in float32 on eight rows, a tiny model in the place of the real one."""
    (tmp_path / "smollm2").symlink_to(models / "tiny")
    rows = [f'{{"question": "{n} + 1?", "answer": "{n + 1}"}}\n' for n in range(16)]
    (tmp_path / "train.jsonl").write_text("".join(rows))
    monkeypatch.setenv("GSM8K", str(tmp_path))
    setting = Setting(device=torch.device("cpu"), models=tmp_path, started=0.0)
    run = loss_curves.Run(4, 60, "float32", False)
    sides = [side(run, setting)["loss curve"].values["losses"] for side in (loss_curves.ours, loss_curves.theirs)]
    assert len(sides[0]) == 4 and len(set(sides[0])) == 4
    assert sides[0] == pytest.approx(sides[1], rel=1e-3)


def test_clock_and_summary():
    assert 0 < step_ms(lambda: sum(range(1000)), torch.device("cpu")) < 1000
    assert summary([1.0, 2.0, 3.0, 4.0]) == {"median": 2.5, "min": 1.0, "p10": 1.3, "p90": 3.7, "count": 4}
