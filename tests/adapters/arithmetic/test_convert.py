"""Another rank for the same update."""

import json

import pytest
import torch

from quatrain.adapters import read_adapter
from quatrain.adapters.arithmetic import combine_adapters, convert_adapter
from quatrain.errors import AdapterError, ConfigError, OutputError
from tests.adapters.arithmetic.folders import trained


def deltas(folder):
    return {name: layer.delta() for name, layer in read_adapter(folder).layers.items()}


@pytest.mark.parametrize("r", [4, 9])
def test_a_rank_that_is_large_enough_changes_nothing(r, tmp_path):
    folder = trained(tmp_path / "one", use_rslora=True)
    result = convert_adapter(folder, tmp_path / "out", r=r)
    after = read_adapter(tmp_path / "out")
    assert {layer.r for layer in after.layers.values()} == {r} and result.relative_distance < 1e-6
    for name, delta in deltas(folder).items():
        torch.testing.assert_close(after.layers[name].delta(), delta, rtol=1e-5, atol=1e-5)


def test_a_smaller_one_keeps_what_is_largest(tmp_path):
    folder = trained(tmp_path / "one")
    result = convert_adapter(folder, tmp_path / "out", r=2)
    lost = total = 0.0
    for name, delta in deltas(folder).items():
        values = torch.linalg.svdvals(delta)
        lost, total = lost + float(values[2:].square().sum()), total + float(values.square().sum())
        u, s, vh = torch.linalg.svd(delta)
        found = read_adapter(tmp_path / "out").layers[name].delta()
        torch.testing.assert_close(found, (u[:, :2] * s[:2]) @ vh[:2], rtol=1e-4, atol=1e-5)
    assert result.relative_distance == pytest.approx((lost / total) ** 0.5, rel=1e-4)


def test_layers_of_different_ranks_get_one(tmp_path):
    folders = [trained(tmp_path / "0", target_modules=["q"]), trained(tmp_path / "1", r=3)]
    combine_adapters(folders, [1.0, 1.0], tmp_path / "mixed", combination_type="cat")
    assert json.loads((tmp_path / "mixed" / "adapter_config.json").read_text())["rank_pattern"]
    convert_adapter(tmp_path / "mixed", tmp_path / "out", r=8)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 8 and not config["rank_pattern"]
    assert read_adapter(tmp_path / "out").provenance.made == "converted to rank 8 from mixed"  # pyright: ignore


def test_what_cannot_be(tmp_path):
    folder = trained(tmp_path / "one")
    with pytest.raises(ConfigError, match="`r`"):
        convert_adapter(folder, tmp_path / "out", r=0)
    with pytest.raises(OutputError, match="holds something"):
        convert_adapter(folder, folder, r=2)
    with pytest.raises(AdapterError, match="adapter_config"):
        convert_adapter(tmp_path / "nothing", tmp_path / "out", r=2)
    assert not (tmp_path / "out").exists()
