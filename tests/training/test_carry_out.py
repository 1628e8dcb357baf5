"""A plan is carried out: blocks where it says, what it says kept, and the same training as without it."""

from dataclasses import replace

import pytest

from quatrain.blocks import KEEP_ALL, RECOMPUTE_ALL
from quatrain.memory import Plan
from quatrain.models.streaming import streamed_weights
from quatrain.training.build import build
from quatrain.training.carry_out import policies_of, streaming_of
from quatrain.training.step import train_step

PLAN = Plan(
    device="cpu",
    budget=1 << 30,
    micro_batch_tokens=64,
    micro_batches=2,
    policies=("off", "on"),
    paged_optimizer=False,
    resident_blocks=(),
    streamed_blocks=(1,),
    disk_blocks=(0,),
    stream_slots=2,
    head_chunk_tokens=48,
    bytes_by_part={},
    host_bytes_by_part={},
    peaks={"training": 1 << 29},
    outside_tensors=0,
    seconds_by_part={},
    optimizer_seconds=0.0,
    exact=True,
    choices=(),
    notes=(),
)


def first_loss(setup) -> float:
    parameters = [p for p in setup.model.parameters() if p.requires_grad]
    batches = [next(iter(setup.loader))]
    setup.model.train()
    return train_step(setup.objective, parameters, setup.optimizer, batches, max_grad_norm=1.0).loss


def test_a_run_is_built_as_planned(config_for):
    config = config_for(fused_blocks="on")
    setup = build(config, plan=PLAN)
    weights = streamed_weights(setup.model)
    assert weights is not None
    assert (weights.streaming.host, weights.streaming.disk, weights.streaming.slots) == ((1,), (0,), 2)
    engine = setup.objective.engine
    assert engine is not None and engine.head_chunk == 48
    assert [block.policy for block in engine.stack.blocks] == [KEEP_ALL, RECOMPUTE_ALL]
    assert setup.plan == PLAN
    assert first_loss(setup) == pytest.approx(first_loss(build(config)), rel=1e-6)


def test_a_model_that_is_there_already_is_moved(config_for):
    resident = build(config_for(fused_blocks="on"))
    setup = build(config_for(fused_blocks="on"), resident.model, resident.tokenizer, plan=PLAN)
    weights = streamed_weights(setup.model)
    assert weights is not None and weights.nbytes > 0


def test_a_plan_in_which_all_is_resident_streams_nothing(tmp_path):
    plan = replace(PLAN, resident_blocks=(0, 1), streamed_blocks=(), disk_blocks=(), stream_slots=0)
    assert streaming_of(plan, tmp_path) is None
    assert policies_of(plan) == [KEEP_ALL, RECOMPUTE_ALL]
