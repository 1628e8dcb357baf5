"""What autograd really holds between forward and backward, and what is trained, against the planner's upper bounds."""

from typing import Any

import pytest
import torch

from quatrain.adapters import LoraConfig, adapter_parameters
from quatrain.adapters.extras import extra_layers
from quatrain.blocks import POLICIES
from quatrain.memory import weights
from quatrain.memory.architectures import shape_of
from quatrain.memory.autograd import AutogradStep
from quatrain.memory.shape import ModelShape
from quatrain.memory.step import Row
from quatrain.models.autograd_objective import AutogradObjective
from quatrain.models.base_shape import treatment_of
from quatrain.optim import AdamW
from quatrain.training import RunConfig, planning
from tests.models.engine_models import batch_of, random_model, samples

EXTRAS = {
    "dora": {"use_dora": True},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding and norms": {"modules_to_save": ["embed_tokens", "input_layernorm"]},
    "a linear of every block": {"modules_to_save": ["down_proj"], "target_modules": ["q_proj"]},
    "rows": {"trainable_token_indices": [3, 5, 8]},
    "rows of both tables": {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 5]}},
}


def held_by_autograd(model: Any) -> int:
    """Bytes that a forward of 48 tokens leaves for its backward, parameters and buffers left out."""
    model.requires_grad_(False)
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(True)
    standing = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    objective, held = AutogradObjective(model), {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), objective._attending():
        objective._forward(batch_of(samples(lengths=(48,))))
    return sum(nbytes for pointer, (nbytes, _) in held.items() if pointer not in standing)


def bound(shape: ModelShape) -> int:
    row = Row(tokens=48, longest=48, supervised=48, backend="triton", on_gpu=False)
    return AutogradStep(shape, row).fullest([POLICIES["off"]] * len(shape.blocks)).total


@pytest.mark.parametrize("variant", ["llama", "qwen3", "phi3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autograd_holds_no_more_than_the_bound(variant, dtype):
    model = random_model(variant, dtype=dtype).train()
    assert 0 < held_by_autograd(model) <= bound(shape_of(model.config.to_dict(), treatment_of(model)))


@pytest.mark.parametrize("variant", ["llama", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_trained_beside_low_rank_updates_counts(extra, dtype, variant):
    """The head of the one shares the embedding's table, that of the other doesn't."""
    lora = {"r": 4} | EXTRAS[extra]
    model = random_model(variant, dtype=dtype, **lora).train()
    settings = RunConfig(data="none", lora=LoraConfig(**lora))
    shape = planning.base_shape(settings, model.config.to_dict(), dtype.itemsize)
    trained = list(adapter_parameters(model).values())
    assert sorted(shape.trained) == sorted(parameter.numel() for parameter in trained)
    for bits in (8, 32):
        assert weights.optimizer_bytes(shape, bits) == AdamW(trained, lr=1.0, state_bits=bits).state_bytes
    wrappers = [m for m in model.modules() if hasattr(m, "row_squares")] + list(extra_layers(model).values())
    remembered = sum(b.nbytes for m in wrappers for b in m.buffers(recurse=False))
    standing = sum(parameter.nbytes for parameter in trained) + remembered
    assert weights.adapter_bytes(shape) == standing
    assert 0 < held_by_autograd(model) <= bound(shape)
    assert not shape.fused


def test_tokens_that_are_added_have_trained_rows_in_every_table():
    config = random_model("qwen2").config
    shape = planning.base_shape(RunConfig(data="none", new_tokens=["<a>", "<b>"]), config.to_dict(), 2)
    assert shape.extras.token_rows == (2, 2) and shape.extras.head
