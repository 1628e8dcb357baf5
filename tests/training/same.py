"""Whether two runs computed the same, to the last bit."""

import torch
from safetensors.torch import load_file

from quatrain.runlog import Evaluated, RunFolder, StepDone, read_events


def outcome(folder: RunFolder) -> tuple[list[tuple], dict[str, torch.Tensor], dict[str, torch.Tensor], str]:
    """Everything that training computes: steps, measurements, adapter, moments, and where it is in data and random
    numbers."""
    steps = [
        (e.step, e.loss, e.grad_norm, e.learning_rate, e.epoch, e.tokens)
        if isinstance(e, StepDone)
        else (e.step, e.split, e.loss)
        for e in read_events(folder.events)
        if isinstance(e, StepDone | Evaluated)
    ]
    last = folder.checkpoint(folder.checkpoint_steps()[-1])
    adapter = load_file(folder.adapter / "adapter_model.safetensors")
    return steps, adapter, load_file(last / "optimizer.safetensors"), (last / "state.json").read_text()


def assert_same(one: RunFolder, two: RunFolder) -> None:
    (steps, *tensors, state), (other_steps, *other_tensors, other_state) = outcome(one), outcome(two)
    assert steps == other_steps
    assert state == other_state
    for ours, theirs in zip(tensors, other_tensors, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
