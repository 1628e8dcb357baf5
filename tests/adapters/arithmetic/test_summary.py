"""What `adapters show` says, against the whole update."""

import pytest
import torch

from quatrain.adapters import LoraConfig, attach_lora, read_adapter, save_adapter
from quatrain.adapters.arithmetic import adapter_summary
from tests.adapters.arithmetic.folders import base, trained


def test_norms_are_those_of_the_updates(tmp_path):
    folder = trained(tmp_path / "one", use_rslora=True)
    summary = adapter_summary(folder)
    total = 0.0
    for line, (name, layer) in zip(summary.layers, read_adapter(folder).layers.items(), strict=True):
        delta = layer.delta()
        assert (line.name, line.shape, line.r, line.scaling) == (name, tuple(delta.shape), 4, 7 / 2)
        assert line.norm == pytest.approx(float(delta.norm()), rel=1e-5)
        values = torch.linalg.svdvals(delta)
        assert line.spectral_norm == pytest.approx(float(values[0]), rel=1e-5)
        kept = values.square().cumsum(0) / values.square().sum()
        assert kept[line.enough - 1] >= 0.99 and (line.enough == 1 or kept[line.enough - 2] < 0.99)
        total += float(delta.square().sum())
    assert summary.norm == pytest.approx(total**0.5, rel=1e-5)
    assert summary.ranks == (4,) and summary.parameters == 2 * 4 * (24 + 12 + 24 + 40)


def test_an_untrained_adapter_has_no_norm(tmp_path):
    summary = adapter_summary(save_adapter(attach_lora(base(), LoraConfig(r=2)), tmp_path))
    assert summary.norm == 0 and {line.enough for line in summary.layers} == {0}
