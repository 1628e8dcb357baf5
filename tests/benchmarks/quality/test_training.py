"""Each method trains what it says it trains, and the loss is the one that others compute."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.quality import four_bits
from benchmarks.quality.cell import OutOfTime, Where
from benchmarks.quality.models import Tuning
from benchmarks.quality.objectives import ThroughModel
from benchmarks.quality.tables.contests import training
from benchmarks.quality.tasks import evaluation_batches, samples_of
from benchmarks.quality.training import measure, settings_of
from quatrain.models import load_model
from quatrain.models.objective import Objective


@pytest.fixture
def where(models: Path, texts) -> Where:
    return Where(model=str(models / "tiny"), data=texts, device=torch.device("cpu"))


def run(how: Tuning, **changes):
    settings = {"task": "gsm8k", "learning_rate": 1e-2, "steps": 3, "rows": 2, "seed": 1, "held_out": 4}
    return training(how, **(settings | changes))


@pytest.mark.parametrize(
    ("how", "trained"),
    [
        (Tuning(method="full", r=0), None),
        (Tuning(method="lora", quantization="nf4", r=4), 4 * 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 192))),
        (Tuning(method="lora", r=4, targets="attention"), 4 * 2 * (2 * (64 + 64) + 2 * (64 + 32))),
        (Tuning(method="houlsby", r=8), 2 * 2 * 2 * 8 * 64),
        (Tuning(method="prompt", r=5), 5 * 64),
    ],
)
def test_a_method_trains_what_it_says(how: Tuning, trained: int | None, where: Where):
    """A step sees all 19 rows, so that what is learned shows in the next one's loss."""
    found = measure(settings_of(run(how, rows=19, curve=True)), where)
    assert found["trained"] == (trained or found["base_parameters"])
    assert found["losses"][0] > found["losses"][2] and not found["diverged"]


def test_answers_are_scored(where: Where):
    assert 0 <= measure(settings_of(run(Tuning(method="houlsby", r=8), answers=2)), where)["number_match"] <= 1


def test_a_late_cell_is_given_up(where: Where):
    with pytest.raises(OutOfTime):
        measure(settings_of(run(Tuning(method="lora"))), replace(where, deadline=0.0))


def test_transformers_loss_is_quatrains(where: Where, texts, monkeypatch):
    monkeypatch.setattr("benchmarks.libraries.peft_training.compute_dtype", lambda *_: torch.float32)
    model, _ = load_model(where.model, quantization=None, compute_dtype="float32", device="cpu")
    samples = samples_of("oasst", "test", texts["oasst"], where.model)
    losses = []
    for packed, objective in ((True, Objective(model)), (False, ThroughModel(model, where.device))):
        batches = evaluation_batches(samples, most=4, rows=2, packed=packed)
        losses.append(sum(float(objective.loss(batch)) for batch in batches))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_four_bits_are_counted_from_what_is_stored(where: Where):
    settings = {"held_out": 2, "rows": 2, "seed": 1}
    packed = four_bits.measure(settings | {"quantization": "nf4", "double_quant": False, "block_size": 64}, where)
    assert packed["linear_bits"] == 4.5
    plain = four_bits.measure(settings | {"quantization": None, "double_quant": False, "block_size": 64}, where)
    assert plain["normal_error"] < 0.002 < 0.05 < packed["normal_error"] < 0.12
    assert packed["oasst_perplexity"] != plain["oasst_perplexity"]
