"""How the 4-bit product is started, by what was the fastest on an H200 (`benchmarks/results/lab/few_rows_6.txt`)."""

from types import SimpleNamespace

import pytest
import torch

from quatrain.ops.linear_4bit.launch import Launch, launch_for

HOPPER = SimpleNamespace(multi_processor_count=132, regs_per_multiprocessor=65536, major=9)
AMPERE = SimpleNamespace(multi_processor_count=108, regs_per_multiprocessor=65536, major=8)
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def nothing_remembered():
    launch_for.cache_clear()
    yield
    launch_for.cache_clear()


@pytest.mark.parametrize(
    ("rows_of_x", "outputs", "slices", "early"),
    [
        (4, 4096, 16, True),  # 13.9 µs for 14,336 inputs; 8 slices take 17.0, and 21.6 when they start early
        (4, 6144, 8, False),  # 8.7 µs for 4,096 inputs; 9.4 early, 11.4 with 16 slices
        (4, 14336, 8, True),  # 15.7 µs; 16.2 late
        (8, 4096, 8, False),  # 22.2 µs for 14,336 inputs; 28.8 early
        (16, 4096, 8, True),  # 29.4 µs for 14,336 inputs; 30.7 late
    ],
)
def test_the_fastest_of_those_measured_is_taken(monkeypatch, rows_of_x, outputs, slices, early):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: HOPPER)
    launch = launch_for(rows_of_x, outputs // 16, GPU)
    assert (launch.slices, launch.early) == (slices, early)


def test_only_hopper_and_later_start_early(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: AMPERE)
    assert not any(launch_for(rows, 14336 // 16, GPU).early for rows in (4, 8, 16, 32))
    assert launch_for(4, 64, torch.device("cpu")) == Launch(slices=8, registers=64, early=False)
