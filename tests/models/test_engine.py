"""Our own blocks against plain PyTorch in float32 on the same weights: loss and every adapter gradient."""

import gc
import weakref
from typing import Any

import pytest
import torch

from quatrain.adapters import adapter_layers, adapter_parameters, attach_lora, detach_lora
from quatrain.blocks import GATE_UP_8BIT, KEEP_ALL, OFFLOAD, POLICIES, RECOMPUTE_ALL, Policy
from quatrain.blocks.store import ActivationStore
from quatrain.device import memory_in_use, reset_peak
from quatrain.errors import ModelError
from quatrain.models.autograd_objective import AutogradObjective
from quatrain.models.engine import Engine
from quatrain.models.fused_layers import fuse_blocks
from quatrain.models.objective import Objective
from tests.models.engine_models import VARIANTS, batch_of, expected, gradients, random_model, samples, worst

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_plain_pytorch(variant, device):
    model, batch = random_model(variant, device=device), batch_of(samples())
    loss, grads = expected(model, batch)
    engine = Engine(model)
    assert engine.accumulate(batch).item() == pytest.approx(loss, rel=1e-5)
    assert worst(gradients(model), grads) < 2e-4
    assert engine.loss(batch).item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["llama", "qwen2", "gemma2"])
def test_padded_rows_give_what_packed_ones_do(variant, device):
    model = random_model(variant, device=device)
    _, grads = expected(model, batch_of(samples()))
    Engine(model).accumulate(batch_of(samples(), packing=False))
    assert worst(gradients(model), grads) < 2e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["llama", "qwen3", "gemma2", "phi3"])
def test_what_is_kept_changes_no_bit(variant, device):
    model, batch = random_model(variant, device=device, lora_dropout=0.3).train(), batch_of(samples())
    another = batch_of(samples(lengths=(9, 3, 16)))
    engine, found = Engine(model), []
    mixed = [KEEP_ALL, RECOMPUTE_ALL]
    for policy in (
        *(policy for policy in POLICIES.values() if policy.exact),
        Policy(attention="recompute"),
        Policy(x2="recompute"),
        Policy(qkv="recompute"),
        mixed.__getitem__,
    ):
        engine.set_policy(policy)
        torch.manual_seed(1)
        engine.accumulate(batch)
        found.append(gradients(model))
        engine.accumulate(another)  # What this policy leaves behind must not be taken for the next one's.
        model.zero_grad(set_to_none=True)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["llama", "gemma2", "phi3"])
def test_gate_and_up_in_8_bits_change_gradients_by_two_hundredths_at_most(variant, device):
    """Each value is off by 1/254 of the largest of its 128 at most; the loss doesn't depend on what is kept."""
    model, batch = random_model(variant, device=device, lora_dropout=0.3).train(), batch_of(samples())
    engine, found = Engine(model), []
    for policy in (KEEP_ALL, GATE_UP_8BIT):
        engine.set_policy(policy)
        torch.manual_seed(1)
        loss = engine.accumulate(batch).item()
        found.append((loss, gradients(model)))
    (loss, exact), (loss_of_8_bits, of_8_bits) = found
    assert loss == loss_of_8_bits
    assert any(not torch.equal(exact[name], of_8_bits[name]) for name in exact), "nothing was kept in 8 bits"
    assert all((of_8_bits[name] - exact[name]).norm() <= 0.02 * exact[name].norm() for name in exact)


@pytest.mark.gpu
def test_offloaded_activations_take_the_room_of_a_few_blocks():
    """However far Python is ahead of the GPU and the bus."""
    taken = []
    for blocks in (4, 24):
        model = random_model("llama", device="cuda", dtype=torch.bfloat16, blocks=blocks)
        engine, batch = Engine(model), batch_of(samples(lengths=(16_384,)))
        engine.set_policy(OFFLOAD)
        for _ in range(2):
            reset_peak(model.device)
            before = memory_in_use(model.device).current
            engine.accumulate(batch)
            taken.append(memory_in_use(model.device).peak - before)
    a_blocks = 16_384 * (64 + 128 + 64 + 64) * 2  # x, qkv, attention's output and x2
    assert taken[3] - taken[1] < a_blocks


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["llama-bias", "gemma3", "phi3"])
def test_dropout_is_that_of_its_masks(variant, device):
    """The masks are drawn from the seed and applied in plain PyTorch, adapter by adapter."""
    model, batch = random_model(variant, device=device, lora_dropout=0.25).train(), batch_of(samples())
    engine = Engine(model)
    torch.manual_seed(5)
    loss = engine.accumulate(batch).item()
    torch.manual_seed(5)
    seed = torch.randint(1 << 62, (1,)).to(device)
    expected_loss, grads = expected(model, batch, 0.25, seed)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert worst(gradients(model), grads) < 2e-4
    model.eval()
    assert engine.accumulate(batch).item() != pytest.approx(loss, rel=1e-4), "no dropout in evaluation mode"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["llama", "qwen2", "gemma2"])
def test_bfloat16_is_as_near_to_float32_as_autograd(variant, device):
    """Rounding alone makes a hundredth of the gradient; whoever is further away than autograd does something else."""
    model = random_model(variant, device=device, dtype=torch.bfloat16)
    batch = batch_of(samples(lengths=(37, 21, 64)))
    loss, grads = expected(model, batch)
    AutogradObjective(model).accumulate(batch)
    plain = gradients(model)
    ours_loss = Engine(model).accumulate(batch).item()
    ours = gradients(model)
    assert ours_loss == pytest.approx(loss, rel=1e-2)

    def mean(found):
        return sum(float((found[n] - g).norm() / g.norm()) for n, g in grads.items()) / len(grads)

    assert mean(ours) <= max(1e-2, 1.1 * mean(plain))


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["down_proj", "o_proj"], "r": 3},
        {"target_modules": ["up_proj"], "r": 17, "use_rslora": True},
        {"layers_to_transform": [1]},
    ],
    ids=str,
)
def test_any_choice_of_targets_and_ranks(lora):
    model, batch = random_model("llama-bias", **lora), batch_of(samples())
    _, grads = expected(model, batch)
    Engine(model).accumulate(batch)
    assert worst(gradients(model), grads) < 2e-4


def test_a_base_in_sixteen_or_more_bits():
    model, batch = random_model("qwen2", four_bits=False), batch_of(samples())
    _, grads = expected(model, batch)
    Engine(model).accumulate(batch)
    assert worst(gradients(model), grads) < 2e-4


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"use_dora": True}, "is a DoraLinear, and blocks of our own compute LoRA only"),
        ({"trainable_token_indices": [3]}, r"embed_tokens is trained itself \(TokenRows\)"),
        ({"modules_to_save": ["lm_head"]}, r"lm_head is trained itself \(SavedModule\)"),
    ],
    ids=str,
)
def test_other_kinds_of_adapter_train_through_autograd_and_say_why(lora, words):
    model, batch = random_model("llama", **lora), batch_of(samples())
    with pytest.raises(ModelError, match=words):
        Objective(model, fused_blocks="on")
    with pytest.raises(ModelError, match=words):
        fuse_blocks(model)
    loss = Objective(model, fused_blocks="off").accumulate(batch)
    assert loss.isfinite() and all(p.grad is not None for p in adapter_parameters(model).values())


def test_a_model_without_an_adapter_has_its_loss():
    model, batch = detach_lora(random_model("llama")), batch_of(samples())
    loss = Engine(model).loss(batch).item()
    assert loss == pytest.approx(AutogradObjective(model).loss(batch).item(), rel=1e-5)


def test_gradients_of_micro_batches_add_up_until_they_are_dropped():
    model, batch = random_model("llama"), batch_of(samples())
    engine = Engine(model)
    engine.accumulate(batch)
    parameters: dict[str, Any] = dict(adapter_parameters(model))
    once = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    engine.accumulate(batch)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, 2 * once[name])
    model.zero_grad(set_to_none=True)
    engine.accumulate(batch)
    assert all(torch.equal(parameter.grad, once[name]) for name, parameter in parameters.items())


def test_a_gradient_that_is_there_is_added_to():
    """As of a step that was left, saved and taken up again."""
    model, batch = random_model("llama"), batch_of(samples())
    engine = Engine(model)
    engine.accumulate(batch)
    once = gradients(model)
    for name, parameter in adapter_parameters(model).items():
        parameter.grad = once[name].clone()
    engine.accumulate(batch)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", [KEEP_ALL, OFFLOAD], ids=lambda policy: policy.in_words)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_exception_within_a_step_leaves_no_activations_behind(where, policy, device, monkeypatch):
    model, batch = random_model("llama", device=device), batch_of(samples())
    engine = Engine(model)
    engine.set_policy(policy)
    engine.accumulate(batch)
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    made: list[weakref.ref[Any]] = []

    def put(index, kept, policy):
        made.extend(weakref.ref(tensor) for tensor in kept.tensors().values())
        if where == "forward" and index == 1:
            raise torch.OutOfMemoryError("no more")
        ActivationStore.put(engine.stack._store, index, kept, policy)

    def get(index):
        if where == "backward" and index == 0:
            raise torch.OutOfMemoryError("no more")
        return ActivationStore.get(engine.stack._store, index)

    with monkeypatch.context() as patch:
        patch.setattr(engine.stack._store, "put", put)
        patch.setattr(engine.stack._store, "get", get)
        with pytest.raises(torch.OutOfMemoryError):
            engine.accumulate(batch)
    gc.collect()
    assert made and not [ref for ref in made if ref() is not None]
    model.zero_grad(set_to_none=True)
    engine.accumulate(batch)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(model).items())


def test_updates_and_loaded_values_reach_the_next_forward():
    model, batch = random_model("llama"), batch_of(samples())
    engine = Engine(model)
    before = engine.loss(batch).item()
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.zero_()
    after = engine.loss(batch).item()
    assert after == pytest.approx(AutogradObjective(model).loss(batch).item(), rel=1e-5) != before


def test_parameters_stay_the_objects_they_are():
    model = random_model("llama")
    before = adapter_parameters(model)
    values = {name: parameter.clone() for name, parameter in before.items()}
    Engine(model)
    for name, parameter in adapter_parameters(model).items():
        assert parameter is before[name] and parameter.requires_grad
        assert torch.equal(parameter, values[name])


def test_what_the_blocks_cannot_compute_is_refused_with_the_reason():
    model = random_model("llama")
    next(iter(adapter_layers(model).values())).lora_dropout = 0.5
    with pytest.raises(ModelError, match="different dropout rates"):
        Engine(model)
    model: Any = detach_lora(random_model("llama"))
    model.config.model_type = "unheard-of"
    with pytest.raises(ModelError, match="unheard-of isn't among"):
        Engine(model)
    model = random_model("llama")
    model.config.attention_dropout = 0.1
    with pytest.raises(ModelError, match="attention_dropout"):
        Engine(model)


def test_what_stands_in_a_linears_place_is_refused():
    """PEFT's layers are such: they have a weight, which isn't all that they compute."""

    class Doubled(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model: Any = random_model("llama")
    model.model.layers[0].mlp.down_proj = Doubled(96, 64, bias=False)
    with pytest.raises(ModelError, match="a Doubled stands in a linear's place"):
        Engine(model)


def test_an_adapter_outside_of_the_blocks_is_refused():
    model: Any = detach_lora(random_model("llama"))
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    attach_lora(model)
    from quatrain.adapters.attach import replace_module
    from quatrain.adapters.lora import LoraLinear

    replace_module(model, "lm_head", LoraLinear(model.lm_head, r=2, lora_alpha=2))
    with pytest.raises(ModelError, match="lm_head carries an adapter"):
        Engine(model)


class TestChoice:
    """Which of the two ways an objective takes."""

    def test_our_blocks_where_they_are_wanted(self):
        model = random_model("llama")
        objective = Objective(model, fused_blocks="on")
        assert objective.engine is not None and objective.packs
        batch = batch_of(samples())
        assert objective.loss(batch).item() == pytest.approx(AutogradObjective(model).loss(batch).item(), rel=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_family_is_agreed_on(self, variant, dtype):
        assert Objective(random_model(variant, dtype=dtype), fused_blocks="on").engine is not None

    def test_the_models_own_on_a_cpu(self):
        assert Objective(random_model("llama")).engine is None

    @pytest.mark.gpu
    def test_our_blocks_on_a_gpu(self):
        assert Objective(random_model("llama", device="cuda")).engine is not None

    def test_not_for_a_model_that_computes_something_else(self):
        model = random_model("llama")
        forward = model.model.layers[0].forward
        model.model.layers[0].forward = lambda *args, **kwargs: 1.2 * forward(*args, **kwargs)
        with pytest.raises(ModelError, match="block 0 of ours gives other results"):
            Objective(model, fused_blocks="on")

    def test_not_where_the_head_is_more_than_a_product(self):
        model = random_model("llama")
        head = model.lm_head
        model.lm_head.forward = lambda x: torch.sin(torch.nn.functional.linear(x, head.weight))
        with pytest.raises(ModelError, match="head"):
            Objective(model, fused_blocks="on")


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_recording_gives_the_same_bits(dropout, monkeypatch):
    model = random_model("llama", device="cuda", dtype=torch.bfloat16, lora_dropout=dropout).train()
    engine, batches = Engine(model), [batch_of(samples(lengths=n)) for n in ((20, 40, 4), (40, 24))]
    eager = []
    for batch in batches:
        torch.manual_seed(3)
        engine.accumulate(batch)
        eager.append(gradients(model))
    for batch, one in zip(batches, eager, strict=True):
        monkeypatch.setattr(engine.recorder, "_decide", lambda *_, **__: True)
        for _ in range(3):
            engine.accumulate(batch)
        model.zero_grad(set_to_none=True)
        torch.manual_seed(3)
        engine.accumulate(batch)
        other = gradients(model)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(engine.recorder._recordings) == 1
