"""The loss and the update don't depend on how samples are grouped."""

import pytest
import torch

from quatrain.adapters import LoraConfig, adapter_parameters, attach_lora
from quatrain.data import DataConfig, Loader, prepare
from quatrain.models import load_model
from quatrain.models.objective import Objective
from quatrain.training.step import train_step


@pytest.fixture(scope="module")
def model_and_data(tiny_llama_dir, rows):
    model, tokenizer = load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")
    attach_lora(model, LoraConfig(r=4))
    for parameter in adapter_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.05)
    return model, prepare(DataConfig(path=str(rows), max_rows=8), tokenizer, max_length=64).samples


def step_over(model, batches, objective):
    """(loss, gradients) of one step that changes nothing."""
    parameters = list(adapter_parameters(model).values())
    taken = {}

    class Keep(torch.optim.SGD):
        def step(self, closure=None):
            taken.update({i: p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None})

    result = train_step(objective, parameters, Keep(parameters, lr=0.0), batches, max_grad_norm=0)
    return result, taken


def batches_of(samples, **options):
    loader = Loader(samples, max_length=64, **options)
    return list(loader.epoch(0))


def test_eight_times_one_equals_one_times_eight(model_and_data):
    model, samples = model_and_data
    packed, unpacked = Objective(model), Objective(model, packing=False)
    assert packed.packs and not packed.notes
    one, grads_one = step_over(model, batches_of(samples, batch_size=8, packing=True), packed)
    eight, grads_eight = step_over(model, batches_of(samples, batch_size=1, packing=False), unpacked)
    padded, grads_padded = step_over(model, batches_of(samples, batch_size=8, packing=False), unpacked)
    assert one.supervised_tokens == eight.supervised_tokens == padded.supervised_tokens
    for other, grads in ((eight, grads_eight), (padded, grads_padded)):
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, grads_one[name], rtol=1e-4, atol=1e-6)


def test_the_loss_is_transformers_loss_on_each_sample_alone(model_and_data):
    model, samples = model_and_data
    objective = Objective(model)
    result, _ = step_over(model, batches_of(samples, batch_size=8, packing=True), objective)
    total = 0.0
    for sample in samples:
        ids = torch.from_numpy(sample.input_ids.astype("int64"))[None]
        labels = torch.where(torch.from_numpy(sample.supervised.copy())[None], ids, -100)
        count = int((labels[:, 1:] != -100).sum())
        total += model(input_ids=ids, labels=labels).loss.item() * count
    assert result.loss == pytest.approx(total / result.supervised_tokens, rel=1e-5)
