"""What autograd really holds between forward and backward, against the planner's upper bound."""

import pytest
import torch

from quatrain.blocks import POLICIES
from quatrain.memory.architectures import shape_of
from quatrain.memory.autograd import AutogradStep
from quatrain.memory.step import Row
from quatrain.models.autograd_objective import AutogradObjective
from quatrain.models.base_shape import treatment_of
from tests.models.engine_models import batch_of, random_model, samples


@pytest.mark.parametrize("variant", ["llama", "qwen3", "phi3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autograd_holds_no_more_than_the_bound(variant, dtype):
    model, batch = random_model(variant, dtype=dtype).train(), batch_of(samples(lengths=(48,)))
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    standing = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    objective, held = AutogradObjective(model), {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), objective._attending():
        objective._forward(batch)
    found = sum(nbytes for pointer, (nbytes, _) in held.items() if pointer not in standing)
    shape = shape_of(model.config.to_dict(), treatment_of(model))
    row = Row(tokens=48, longest=48, supervised=48, backend="triton", on_gpu=False)
    bound = AutogradStep(shape, row).fullest([POLICIES["off"]] * len(shape.blocks)).total
    assert 0 < found <= bound
