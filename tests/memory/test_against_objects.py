"""The planner's bytes against those of real objects: small random models of every family with blocks of our own."""

from typing import Any

import pytest
import torch

from quatrain.adapters import adapter_parameters
from quatrain.adapters.lora import LoraLinear
from quatrain.blocks import POLICIES, store
from quatrain.blocks.kept import GROUP_MEMBERS
from quatrain.blocks.policy import GROUPS
from quatrain.memory import weights
from quatrain.memory.architectures import ARCHITECTURES, Treatment, shape_of
from quatrain.memory.shape import ModelShape
from quatrain.memory.step import Row, Step, rotary_bytes, shared_buffers
from quatrain.models.engine import Engine
from quatrain.models.families import FAMILIES
from quatrain.ops.linear_cross_entropy import chunked
from quatrain.optim import AdamW
from quatrain.quantization import QuantizedModule
from tests.models.engine_models import VARIANTS, batch_of, random_model, samples

SOME = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
"""Linears with an adapter, so that each product has one that has none."""


def planned(model: Any) -> ModelShape:
    """The shape that the planner reads from the model's config, with the treatment that the model has had."""
    linears = dict(model.named_modules())
    return shape_of(
        model.config.to_dict(),
        Treatment(
            four_bits=lambda name: isinstance(getattr(linears[name], "base_layer", linears[name]), QuantizedModule),
            rank=lambda name: linears[name].r if isinstance(linears[name], LoraLinear) else 0,
            item=model.dtype.itemsize,
        ),
    )


def model_of(variant: str) -> Any:
    return random_model(variant, r=5, target_modules="all-linear" if variant == "phi3" else SOME)


def test_every_family_with_blocks_of_our_own_can_be_planned():
    assert set(ARCHITECTURES) == set(FAMILIES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_stands_is_what_the_modules_hold(variant):
    model = model_of(variant)
    shape = planned(model)
    packed = [module.quantized for module in model.modules() if isinstance(module, QuantizedModule)]
    predicted = [weights.block_weights(block, shape, on_gpu=False).total for block in shape.blocks]
    assert sum(predicted) == sum(weight.nbytes for weight in packed)
    engine = Engine(model)
    joined = [p.bias_N.nbytes for block in engine.stack.blocks for p in block.products if p.bias_N is not None]
    frozen = [parameter.nbytes for parameter in model.parameters() if not parameter.requires_grad]
    assert weights.sixteen_bit_bytes(shape) == sum(frozen) + sum(joined)
    assert shape.parameters == sum(w.numel for w in packed) + sum(frozen) // model.dtype.itemsize
    flat = engine.stack.adapter
    trained: dict[str, Any] = dict(adapter_parameters(model))
    assert weights.adapter_bytes(shape) == sum(p.nbytes for p in trained.values()) + flat._a.nbytes
    assert 4 * shape.adapter_parameters == flat.gradients.nbytes


@pytest.mark.parametrize("variant", ["llama", "phi3"])
@pytest.mark.parametrize("bits", [8, 32])
def test_the_optimizers_state(variant, bits, monkeypatch):
    model = random_model(variant, r=64)
    monkeypatch.setattr(weights, "PAGE_BYTES", 1 << 14)
    monkeypatch.setattr("quatrain.optim.arena.PAGE_BYTES", 1 << 14)
    optimizer = AdamW(list(adapter_parameters(model).values()), lr=1.0, state_bits=bits)
    assert weights.optimizer_bytes(planned(model), bits) == optimizer.state_bytes
    for arena in optimizer._all_arenas():
        arena.page_out()
    slots = [t.nbytes for a in optimizer._all_arenas() for slot in a.state._slots for t in slot.buffers.values()]
    assert weights.page_slots_bytes(planned(model), bits) == sum(slots)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_keeps_and_shares_what_was_said(variant, monkeypatch):
    model, batch = model_of(variant), batch_of(samples())
    kept: list[dict[str, torch.Tensor]] = []
    put = store.ActivationStore.put
    monkeypatch.setattr(store.ActivationStore, "put", lambda *a: (kept.append(a[2].tensors()), put(*a))[1])
    engine = Engine(model)
    engine.accumulate(batch)
    shape = planned(model)
    supervised = int((batch.targets >= 0).sum())
    row = Row(
        tokens=batch.input_ids.numel(), longest=batch.longest, supervised=supervised, backend="triton", on_gpu=False
    )
    for sizes, tensors in zip(Step(shape, row).sizes, kept, strict=True):
        found = {g: sum(tensors[n].nbytes for n in GROUP_MEMBERS[g] if n in tensors) for g in GROUPS}
        assert found == sizes
    buffers = {name: flat.nbytes for (name, _), flat in engine.stack.workspace._flat.items()}
    assert {name: nbytes for name, nbytes in shared_buffers(shape, row).items() if nbytes} == buffers
    tables = [table.nbytes for pair in engine.spec.tables._tables.values() for table in pair]
    assert rotary_bytes(shape, row) == sum(tables)


@pytest.mark.parametrize("variant", ["llama", "gemma2"])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_there_between_forward_and_backward(variant, policy, monkeypatch):
    """After the forward a policy's groups are in the store, on the CPU offloaded ones too."""
    model, batch = model_of(variant), batch_of(samples())
    engine = Engine(model)
    engine.set_policy(POLICIES[policy])
    there = []
    backward = engine.stack.backward
    monkeypatch.setattr(
        engine.stack,
        "backward",
        lambda *a: (there.append([k.tensors() for k in engine.stack._store._kept.values()]), backward(*a)),
    )
    engine.accumulate(batch)
    row = Row(tokens=batch.input_ids.numel(), longest=batch.longest, supervised=1, backend="triton", on_gpu=False)
    step, chosen = Step(planned(model), row), [POLICIES[policy]] * len(engine.stack.blocks)
    expected = [a + b for a, b in zip(step.at("keep", chosen), step.at("offload", chosen), strict=True)]
    assert [sum(t.nbytes for t in tensors.values()) for tensors in there[0]] == expected


def test_the_head_has_no_more_logits_at_once_than_planned(monkeypatch):
    model, batch = model_of("llama"), batch_of(samples())
    rows = []
    real = chunked.cross_entropy_
    monkeypatch.setattr(
        chunked, "cross_entropy_", lambda logits, *a, **k: (rows.append(len(logits)), real(logits, *a, **k))
    )
    engine = Engine(model)
    expected = engine.accumulate(batch)
    (whole,) = rows
    engine.head_chunk = whole // 3
    rows.clear()
    assert engine.accumulate(batch).item() == pytest.approx(expected.item(), rel=1e-6)
    assert len(rows) > 2 and max(rows) == whole // 3
