"""A run's folder is the model that was trained, whatever its adapter started from and whoever opens it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quatrain.adapters import (
    AdapterSet,
    LoraConfig,
    adapter_layers,
    attach_lora,
    detach_lora,
    load_adapter,
    save_adapter,
)
from quatrain.errors import AdapterError
from quatrain.exports.comparing import merged_model
from quatrain.exports.exporting import merge
from quatrain.exports.subject import open_subject
from quatrain.models import load_model
from quatrain.training import RunConfig, train
from quatrain.training.opening import open_adapters, open_model

STARTS: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa", "use_rslora": True},
    "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "loftq": {"init_lora_weights": "loftq", "loftq_iter": 2},
    "eva": {"init_lora_weights": "eva"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}
CHANGES_BASE = ("pissa", "pissa_niter_4", "olora", "loftq")
IDS = torch.tensor([[3, 17, 5, 499, 7, 21, 3, 9]])
EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 2e-6}
"""For float32 sums in another order, at logits of about 1."""


@dataclass(frozen=True)
class Trained:
    start: str
    folder: Path
    base: Path
    logits: Tensor
    """Of the model in the memory of the process that trained it."""

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module", params=STARTS)
def trained(request, tiny_llama_dir, rows, tmp_path_factory) -> Trained:
    """Four steps on four bits."""
    model, tokenizer = load_model(tiny_llama_dir, device="cpu", compute_dtype="float32")
    config = RunConfig(
        data=str(rows),
        output_dir=tmp_path_factory.mktemp(request.param) / "run",
        device="cpu",
        compute_dtype="float32",
        lora=LoraConfig(r=4, lora_alpha=8, **STARTS[request.param]),
        max_steps=4,
        max_length=64,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        learning_rate=1e-2,
    )
    base = logits(model)
    run = train(model, tokenizer, config, progress=False)
    found = logits(model)
    assert (found - base).abs().max() > 0.05, "there is something to lose"
    return Trained(request.param, run.folder.path, tiny_llama_dir, found)


def test_opened_for_eval_and_chat(trained):
    torch.testing.assert_close(logits(open_model(str(trained.folder))[0]), trained.logits, **EXACT)
    adapters, _ = open_adapters(str(trained.folder), {})
    torch.testing.assert_close(logits(adapters.model), trained.logits, **EXACT)


def test_loaded_in_python_and_taken_off(trained):
    model, _ = load_model(trained.base, device="cpu", compute_dtype="float32")
    before = logits(model)
    for _ in range(2):
        load_adapter(model, trained.adapter)
        torch.testing.assert_close(logits(model), trained.logits, **EXACT)
    assert torch.equal(logits(detach_lora(model)), before)


def test_merged_into_the_base_that_was_trained_on(trained, tmp_path):
    merged = merged_model(open_subject(trained.folder), "dequantized", torch.float32)
    torch.testing.assert_close(logits(merged), trained.logits, **EXACT)
    compared = merge(trained.folder, tmp_path / "merged").compared
    assert compared is not None and compared.written.kl < 1e-5, "16 bits round it"


def test_on_16_bits_peft_quatrain_and_a_merge_compute_the_same(trained):
    import peft
    from transformers import AutoModelForCausalLM

    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(trained.base), trained.adapter)
    ours = open_model(str(trained.folder), quantization="none")[0]
    merged = merged_model(open_subject(trained.folder), "original", torch.float32)
    torch.testing.assert_close(logits(ours), logits(theirs), **EXACT)
    torch.testing.assert_close(logits(merged), logits(theirs), **EXACT)


def test_switched_to_and_from_beside_another(trained, tmp_path):
    model, _ = load_model(trained.base, device="cpu", compute_dtype="float32")
    base = logits(model)
    adapters = AdapterSet(model)
    adapters.load_adapter(trained.adapter, "one")
    adapters.load_adapter(trained.adapter, "other")
    for name, expected in (("one", trained.logits), (None, base), ("other", trained.logits), ("one", trained.logits)):
        adapters.set_adapter(name)
        torch.testing.assert_close(logits(model), expected, **EXACT)
    if trained.start in CHANGES_BASE:
        with (
            pytest.raises(AdapterError, match=r"its start \((pissa|olora|loftq).*\) has changed"),
            adapters.per_row(["one"]),
        ):
            pass
    adapters.delete_adapter("one")
    assert torch.equal(logits(model), base)


def test_a_set_isnt_made_around_an_adapter_that_has_changed_the_base(trained):
    model = open_model(str(trained.folder))[0]
    if trained.start not in CHANGES_BASE:
        assert AdapterSet(model).active_adapter == "default"
        return
    with pytest.raises(AdapterError, match="has changed the base that others are to share"):
        AdapterSet(model)


def test_what_was_taken_out_of_the_base_belongs_to_the_adapter_beside_it(trained, tmp_path):
    start = trained.adapter / "start.safetensors"
    assert start.exists() == (trained.start in CHANGES_BASE)
    if not start.exists():
        return
    model = open_model(str(trained.folder))[0]
    folder = save_adapter(model, tmp_path / "adapter")
    for layer in adapter_layers(model).values():
        layer.lora_A.data.add_(1)
    save_adapter(model, folder)
    assert (folder / "start.safetensors").read_bytes() == start.read_bytes(), "training doesn't change it"
    (folder / "start.safetensors").write_bytes(start.read_bytes()[:-64])
    with pytest.raises(AdapterError, match=r"start\.safetensors is damaged"):
        load_adapter(model, folder)
    detach_lora(model)
    save_adapter(attach_lora(model, LoraConfig(r=8)), folder)
    assert not (folder / "start.safetensors").exists()
    (folder / "start.safetensors").write_bytes(start.read_bytes())
    with pytest.raises(AdapterError, match="Were the two files saved together"):
        load_adapter(model, folder)
