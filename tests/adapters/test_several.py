"""Several adapters on one base, against models that carry one of them, and against PEFT."""

from typing import Any

import pytest
import torch

from quatrain.adapters import (
    AdapterSet,
    LoraConfig,
    adapter_layers,
    adapter_parameters,
    attach_lora,
    load_adapter,
    save_adapter,
)
from quatrain.errors import AdapterError
from tests.adapters.bases import four_bits, sixteen_bits

CONFIGS = {
    "math": LoraConfig(r=4, lora_alpha=8),
    "code": LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    "dora": LoraConfig(r=2, use_dora=True),
    "rows": LoraConfig(r=2, trainable_token_indices=[5, 9]),
}
IDS = torch.tensor([[5, 9, 100, 44, 7, 30], [8, 9, 60, 4, 70, 31], [3, 100, 9, 41, 5, 2]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name, config in CONFIGS.items():
        model = attach_lora(sixteen_bits(), config)
        for parameter in adapter_parameters(model).values():
            torch.nn.init.normal_(parameter, std=0.2)
        found[name] = save_adapter(model, tmp_path_factory.mktemp(name))
    return found


def alone(make, folder=None):
    model = make().eval()
    if folder is not None:
        load_adapter(model, folder)
    return model(IDS).logits


def several(make, folders):
    adapters = AdapterSet(make().eval())
    for name, folder in folders.items():
        adapters.load_adapter(folder, name)
    return adapters


@pytest.mark.parametrize("make", [sixteen_bits, four_bits])
def test_switching_gives_each_adapters_own_bits(make, folders):
    adapters = several(make, folders)
    assert adapters.names == tuple(CONFIGS) and adapters.active_adapter is None
    for name in ("math", "dora", None, "code", "rows", None, "math"):
        adapters.set_adapter(name)
        assert adapters.active_adapter == name
        assert torch.equal(adapters.model(IDS).logits, alone(make, name and folders[name]))


@pytest.mark.parametrize("make", [sixteen_bits, four_bits])
def test_rows_of_one_batch_have_adapters_of_their_own(make, folders):
    adapters = several(make, folders)
    adapters.set_adapter("dora")
    expected = [alone(make, folders["code"])[0], alone(make)[1], alone(make, folders["math"])[2]]
    for names in (["code", None, "math"], ["code", "__base__", "math"]):
        with adapters.per_row(names) as model:
            torch.testing.assert_close(model(IDS).logits, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert torch.equal(adapters.model(IDS).logits, alone(make, folders["dora"]))


def test_after_rows_of_their_own_the_base_alone_is_there_again(folders):
    adapters = several(sixteen_bits, folders)
    with adapters.per_row(["code", None, "math"]):
        pass
    assert adapters.active_adapter is None
    assert torch.equal(adapters.model(IDS).logits, alone(sixteen_bits))


def test_rows_are_pefts(folders):
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(sixteen_bits(), folders["math"], adapter_name="math").eval()
    theirs.load_adapter(folders["code"], adapter_name="code")
    names = ["code", "__base__", "math"]
    with several(sixteen_bits, folders).per_row(names) as model:
        torch.testing.assert_close(model(IDS).logits, theirs(IDS, adapter_names=names).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 2])
def test_generate_keeps_rows_apart(folders, beams):
    adapters = several(sixteen_bits, folders)
    settings = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams, "eos_token_id": None, "pad_token_id": 0}
    names = ["math", "code", None]
    model: Any = adapters.model
    expected = []
    for row, name in enumerate(names):
        adapters.set_adapter(name)
        expected.append(model.generate(IDS[row : row + 1], **settings)[0])
    with adapters.per_row(names):
        assert torch.equal(model.generate(IDS, **settings), torch.stack(expected))


def test_an_adapter_that_is_there_is_taken_in(folders):
    model = load_adapter(sixteen_bits().eval(), folders["math"])
    adapters = AdapterSet(model)
    adapters.load_adapter(folders["code"], "code")
    assert adapters.names == ("default", "code") and adapters.active_adapter == "default"
    assert torch.equal(model(IDS).logits, alone(sixteen_bits, folders["math"]))
    adapters.delete_adapter("default")
    assert adapters.active_adapter is None and adapters.names == ("code",)
    assert torch.equal(model(IDS).logits, alone(sixteen_bits))


def test_an_adapter_that_was_out_follows_the_model(folders):
    adapters = several(sixteen_bits, {"math": folders["math"]})
    adapters.model.train().double()
    adapters.set_adapter("math")
    assert all(layer.training for layer in adapter_layers(adapters.model).values())
    assert save_adapter(adapters.model, folders["math"].parent / "again").is_dir()


def test_what_cannot_be(folders, tmp_path):
    adapters = several(sixteen_bits, folders)
    adapters.set_adapter("math")
    before = adapters.model(IDS).logits
    for name in ("math", "__base__"):
        with pytest.raises(AdapterError, match="taken"):
            adapters.load_adapter(folders["code"], name)
    with pytest.raises(AdapterError, match="adapter_config"):
        adapters.load_adapter(tmp_path, "new")
    for act in (adapters.set_adapter, adapters.delete_adapter, lambda name: adapters.per_row([name]).__enter__()):
        with pytest.raises(AdapterError, match="no adapter 'poetry'; there are math, code, dora, rows"):
            act("poetry")
    for name, kind in (("dora", "DoraLinear"), ("rows", "TokenRows")):
        with pytest.raises(AdapterError, match=f"{name}.* has a {kind}"):
            adapters.per_row([name, None]).__enter__()
    with pytest.raises(AdapterError, match="at least one"):
        adapters.per_row([]).__enter__()
    with pytest.raises(AdapterError, match="2 rows, and the batch has 3"), adapters.per_row(["math", None]) as model:
        model(IDS)
    assert torch.equal(adapters.model(IDS).logits, before)
