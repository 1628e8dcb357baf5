"""Memory used and left: the numbers move with a real allocation, and a container's limit counts."""

import sys

import pytest
import torch

from quatrain import device
from quatrain.device.memory import container_room

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process reset its peak")
def test_the_peak_rises_with_an_allocation_and_starts_anew_when_reset():
    cpu = torch.device("cpu")
    device.reset_peak(cpu)
    before = device.memory_in_use(cpu)
    block = torch.ones(64 * MIB, dtype=torch.uint8)
    during = device.memory_in_use(cpu)
    assert during.current - before.current > 56 * MIB
    del block
    after = device.memory_in_use(cpu)
    assert after.peak > during.current - MIB  # the kernel counts pages per core and adds them up now and then
    assert during.current > after.current + 56 * MIB
    device.reset_peak(cpu)
    assert device.memory_in_use(cpu).peak < during.current - 56 * MIB


def test_free_memory_is_positive_and_below_what_the_machine_has():
    import psutil

    assert 0 < device.free_memory(torch.device("cpu")) <= psutil.virtual_memory().total


def test_room_in_a_container_is_its_limit_minus_what_cannot_be_dropped(tmp_path):
    v2, v1, free = tmp_path / "v2", tmp_path / "v1", tmp_path / "free"
    for folder in (v2, v1, free):
        folder.mkdir()
    (v2 / "memory.max").write_text("1000\n")
    (v2 / "memory.current").write_text("700\n")
    (v2 / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    (v1 / "memory.limit_in_bytes").write_text("1000\n")
    (v1 / "memory.usage_in_bytes").write_text("1200\n")
    (v1 / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 50\n")
    (free / "memory.max").write_text("max\n")
    assert container_room([v2, v1, free]) == [450, 0]


@pytest.mark.gpu
def test_gpu_memory_follows_tensors_and_the_reserve_stays_free():
    gpu = device.pick("cuda")
    device.reset_peak(gpu)
    before, free = device.memory_in_use(gpu), device.free_memory(gpu)
    block = torch.empty(64 * MIB, dtype=torch.uint8, device=gpu)
    assert device.memory_in_use(gpu).current - before.current == 64 * MIB
    assert free - device.free_memory(gpu) >= 60 * MIB
    del block
    assert device.memory_in_use(gpu) == (before.current, before.current + 64 * MIB)
    assert device.free_memory(gpu) >= free - 4 * MIB
