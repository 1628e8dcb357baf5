"""Adapters that don't belong together, or were never trained."""

from dataclasses import replace

import pytest
import torch

from quatrain.adapters import BaseIdentity, LoraConfig, Provenance, attach_lora, read_adapter, save_adapter
from quatrain.adapters.arithmetic import convert_adapter
from quatrain.adapters.arithmetic.inputs import read_inputs
from quatrain.adapters.peft_format import write_adapter
from quatrain.errors import AdapterError
from tests.adapters.arithmetic.folders import base, trained


def changed(folder, out, **changes):
    return write_adapter(replace(read_adapter(folder), **changes), out)


def on(name: str, fingerprint: str) -> Provenance:
    return Provenance(base=BaseIdentity(name=name, fingerprint=fingerprint))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"provenance": on("a", "1")}, {"provenance": on("b", "1")}, True),
        ({"provenance": on("a", "1")}, {"provenance": on("a", "2")}, False),
        ({"base": "org/a", "provenance": None}, {"base": "org/b", "provenance": on("org/b", "1")}, False),
        ({"base": "org/a", "provenance": None}, {"base": "org/a", "provenance": None}, True),
        ({"base": None, "provenance": None}, {"base": "org/a", "provenance": None}, True),
    ],
)
def test_adapters_of_another_base_are_refused_with_both_names(one, other, same, tmp_path):
    folder = trained(tmp_path / "trained")
    folders = [changed(folder, tmp_path / str(i), **changes) for i, changes in enumerate((one, other))]
    if same:
        assert len(read_inputs(folders)) == 2
        return
    with pytest.raises(AdapterError, match=r"one base: .*/0 was trained on .*a.*/1 on .*"):
        read_inputs(folders)
    assert len(read_inputs(folders, force=True)) == 2


def test_an_adapter_that_was_never_trained_is_refused(tmp_path):
    folder = save_adapter(attach_lora(base()), tmp_path / "zero")
    with pytest.raises(AdapterError, match="changes nothing"):
        read_inputs([trained(tmp_path / "one"), folder])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "DoRA's magnitudes"),
        ({"modules_to_save": ["layers.0.k"]}, "modules that were trained whole"),
    ],
)
def test_more_than_low_rank_updates_cannot_be_added_but_converted(settings, words, tmp_path):
    folder = trained(tmp_path / "one", **settings)
    with pytest.raises(AdapterError, match=words):
        read_inputs([folder])
    convert_adapter(folder, tmp_path / "out", r=9)
    before, after = read_adapter(folder), read_adapter(tmp_path / "out")
    assert before.beyond_lora == after.beyond_lora
    weight = torch.randn(12, 24)
    for name in ("layers.0.k.weight", "layers.1.k.weight"):
        torch.testing.assert_close(after.merge(name, weight), before.merge(name, weight), rtol=1e-5, atol=1e-5)


def test_other_shapes_are_refused_even_by_force(tmp_path):
    other = base()
    for block in other.layers:  # pyright: ignore
        block["q"] = torch.nn.Linear(24, 8)
    attach_lora(other, LoraConfig(r=2))
    torch.nn.init.ones_(other.layers[0]["q"].lora_B)  # pyright: ignore
    folder = save_adapter(other, tmp_path / "other")
    with pytest.raises(AdapterError, match=r"layers.0.q is \[40, 24\] in .* \[8, 24\]"):
        read_inputs([trained(tmp_path / "one"), folder], force=True)
