"""EVA against PEFT's, on the same model and rows."""

import warnings
from typing import Any

import pytest
import torch

from quatrain.adapters import LoraConfig, adapter_layers, attach_lora
from quatrain.adapters.starts.eva import Directions
from quatrain.errors import AdapterError
from tests.adapters.bases import four_bits, sixteen_bits

R = 4
TARGETS = ["q_proj", "v_proj", "o_proj", "down_proj"]


def batches(count=6):
    torch.manual_seed(3)
    ids = torch.randint(500, (count, 2, 24))
    return [(row, torch.rand(row.shape) > 0.2) for row in ids]


def pefts(rho) -> Any:
    import peft

    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=R, lora_alpha=8, target_modules=TARGETS, init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=rho),
    )  # fmt: skip
    rows = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.where(counted, ids, -100)}
        for ids, counted in batches()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(sixteen_bits(), config)
        peft.initialize_lora_eva_weights(model, rows, show_progress_bar=False)
    return model.base_model.model


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_directions_and_ranks_are_pefts(rho):
    theirs: dict[str, Any] = {n: m for n, m in pefts(rho).named_modules() if hasattr(m, "lora_A")}
    config = LoraConfig(r=R, lora_alpha=8, target_modules=TARGETS, init_lora_weights="eva", eva_rho=rho)
    # PEFT's rows come again and again until their directions have settled.
    ours = adapter_layers(attach_lora(sixteen_bits(), config, batches=batches() * 8))
    assert sum(layer.r for layer in ours.values()) == R * 8 == sum(m.r["default"] for m in theirs.values())
    close = [abs(ours[n].r - m.r["default"]) <= 1 for n, m in theirs.items() if n in ours]
    assert sum(close) >= len(theirs) - 1
    for name, layer in ours.items():
        assert layer.scaling == 2 and not layer.lora_B.any()
        torch.testing.assert_close(layer.lora_A @ layer.lora_A.T, torch.eye(layer.r), rtol=0, atol=1e-4)
        if name in theirs:
            found = layer.lora_A.detach() @ theirs[name].lora_A["default"].weight.detach().T
            assert float(found.norm() ** 2) > 0.8 * min(found.shape), "the same space"


def test_directions_are_those_of_all_vectors_at_once():
    """Against the exact decomposition, on vectors with a mean that drifts."""
    sizes = torch.tensor([9.0, 7, 5, 3, *[0.3] * 16])
    x = torch.randn(400, 20) * sizes + torch.linspace(0, 0.5, 400)[:, None]
    found = Directions(4)
    for part in x.split([3, 97, 150, 150]):
        found.add(part)
    centered = x - x.mean(0)
    _, s, vh = torch.linalg.svd(centered, full_matrices=False)
    assert found.main_KI is not None and found.share_K is not None
    assert ((found.main_KI * vh[:4]).sum(1).abs() > 0.999).all()
    torch.testing.assert_close(found.share_K, (s.square() / s.square().sum())[:4], rtol=2e-2, atol=1e-3)


def test_on_four_bits_nothing_is_changed_at_the_start():
    model, ids = four_bits(), torch.randint(500, (1, 9))
    before = model(input_ids=ids).logits
    attach_lora(model, LoraConfig(r=R, init_lora_weights="eva"), batches=iter(batches(2)))
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (None, {}, "pass `batches`"),
        ([], {}, "have fewer"),
        (batches(1), {"r": 32}, "64 directions.*have fewer"),
        (batches(1), {"r": 65}, "up to 64, the narrowest input"),
    ],
)
def test_without_enough_to_look_at(rows, settings, words):
    with pytest.raises(AdapterError, match=words):
        attach_lora(sixteen_bits(), LoraConfig(init_lora_weights="eva", **settings), batches=rows)
