"""The gate lets through who computes the same, Quatrain's two ways and the peer, and nobody else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.case import Setting, WrongResult
from benchmarks.gate import decode_gate, loss_gate, training_gate
from benchmarks.libraries import causal_lm, hf, ours
from benchmarks.measurements.training import FOR_TESTS


@pytest.mark.parametrize("fused_blocks", ["off", "on"])
def test_quatrain_passes(fused_blocks: Any, setting: Setting):
    errors = training_gate(ours.QuatrainTraining, replace(FOR_TESTS, fused_blocks=fused_blocks), setting)
    assert set(errors) == {"loss", "gradient of lora_A", "gradient of lora_B"}


@pytest.mark.filterwarnings("ignore")  # the peer's own, which are not ours to fix
def test_the_peer_passes(setting: Setting):
    training_gate(hf.open_checkpointed, replace(FOR_TESTS, peer_samples=1), setting)


def _shifted(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.roll(1, 0) if name.endswith("v_proj.lora_B") else t for name, t in gradients.items()}


def _halved(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t / 2 if name.endswith("lora_A") else t for name, t in gradients.items()}


def _not_a_number(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.full_like(t, float("nan")) for name, t in gradients.items()}


@pytest.mark.parametrize("spoil", [_shifted, _halved, _not_a_number])
def test_wrong_gradients_are_found(spoil: Callable, setting: Setting):
    class Wrong(ours.QuatrainTraining):
        def gradients(self, batches):
            loss, gradients = super().gradients(batches)
            return loss, spoil(gradients)

    with pytest.raises(WrongResult, match="gradient of lora_"):
        training_gate(Wrong, FOR_TESTS, setting)


def test_other_tokens_are_found(setting: Setting):
    """Losses of random tokens differ from those of other random tokens by their scatter alone: that is enough."""

    class Wrong(ours.QuatrainTraining):
        def prepare(self, ids_BS: Tensor):
            return super().prepare(ids_BS.flip(1))

    with pytest.raises(WrongResult, match="relative error"):
        training_gate(Wrong, FOR_TESTS, setting)


def test_an_adapter_on_other_layers_is_found(setting: Setting):
    class Wrong(ours.QuatrainTraining):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.adapter = {name: t for name, t in self.adapter.items() if "q_proj" not in name}

    with pytest.raises(WrongResult, match="q_proj"):
        training_gate(Wrong, FOR_TESTS, setting)


def test_loss_of_a_base(setting: Setting):
    def loss_of(folder: Path, ids: Tensor) -> float:
        return causal_lm.loss(ours.load(folder, setting.device), ids)

    assert loss_gate(loss_of, "tiny", setting)["loss"] < 2e-3
    with pytest.raises(WrongResult, match="loss"):
        loss_gate(lambda folder, ids: 1.01 * loss_of(folder, ids), "tiny", setting)


def test_decoding(setting: Setting):
    def continue_(folder: Path, prompts: Tensor) -> Tensor:
        return ours.decode(ours.load_for_decoding(folder, setting.device), prompts, 9)

    def off_by_one(folder: Path, prompts: Tensor) -> Tensor:
        full = continue_(folder, prompts)
        return torch.cat([full[:, :-1], full[:, -1:] + 1], dim=1)

    decode_gate(continue_, "tiny", setting)
    with pytest.raises(WrongResult, match="below the best"):
        decode_gate(off_by_one, "tiny", setting)
    with pytest.raises(WrongResult, match="continuation"):
        decode_gate(lambda folder, prompts: prompts, "tiny", setting)
