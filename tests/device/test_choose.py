"""The device and precision that a run gets, on this machine and on pretended ones."""

import pytest
import torch

from quatrain import device
from quatrain.device import choose
from quatrain.errors import ConfigError, DeviceError

CPU = torch.device("cpu")


def test_auto_takes_the_gpu_when_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert device.pick() == torch.device("cuda", 1)
    assert device.pick("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(DeviceError, match="0 to 1"):
        device.pick("cuda:2")


@pytest.mark.parametrize("name", ["mps", "gpu", "cpu:x", ""])
def test_a_device_that_we_do_not_know_is_refused(name):
    with pytest.raises(DeviceError, match="auto, cpu, cuda"):
        device.pick(name)


def test_asking_for_a_gpu_that_is_not_there_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device=cpu"):
        device.pick("cuda")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx512_bf16"}, torch.bfloat16), ({"amx_bf16"}, torch.bfloat16), ({"avx2", "avx512f"}, torch.float32)],
)
def test_a_cpu_computes_in_bfloat16_only_where_that_is_native(monkeypatch, flags, expected):
    monkeypatch.setattr(choose, "cpu_flags", lambda: frozenset(flags))
    assert device.compute_dtype(CPU) == expected
    assert device.compute_dtype(CPU, "float16") == torch.float16, "an explicit choice is obeyed"


def test_an_unknown_precision_names_the_known_ones():
    with pytest.raises(ConfigError, match="bfloat16, float16, float32"):
        device.compute_dtype(CPU, "bf16")


def test_cpu_flags_are_read_as_the_kernel_writes_them(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvmx flags\t: ept\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\n")
    assert choose.cpu_flags(cpuinfo) == {"fpu", "avx512_bf16"}
    assert choose.cpu_flags(tmp_path / "absent") == frozenset()


@pytest.mark.gpu
def test_a_gpu_computes_in_a_16_bit_type():
    assert device.compute_dtype(device.pick("cuda")) in (torch.bfloat16, torch.float16)
