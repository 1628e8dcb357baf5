"""Plans from settings and a config: for every architecture, for cards that aren't there, and for this CPU."""

import json
import time

import pytest
import torch

import quatrain
from quatrain.adapters import attach_lora
from quatrain.errors import BudgetError, ConfigError, ModelError
from quatrain.memory import make_plan
from quatrain.memory.shape import ModelShape
from quatrain.models.skeleton import build_skeleton
from quatrain.report import summarize
from quatrain.runlog import PlanChecked, Planned, read_events
from quatrain.training import RunConfig, planning, read_config
from tests.memory.models import LLAMA_1B, LLAMA_8B, LLAMA_70B, LLAMA_405B
from tests.models.families import FAMILIES, config_of


def settings(**changes) -> RunConfig:
    return RunConfig(data="none", **changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_has_a_plan_and_the_right_number_of_parameters(family):
    config = config_of(family)
    made = quatrain.plan(config.to_dict(), gpu="rtx4090")
    assert made.peak > 0 and made.seconds > 0
    skeleton = build_skeleton(config, dtype=torch.bfloat16)
    shape = planning.base_shape(settings(), config.to_dict(), 2)
    # Without storage, tied parameters look like two.
    twice = shape.vocabulary * shape.hidden if shape.tied else 0
    assert shape.parameters == sum(parameter.numel() for parameter in skeleton.parameters()) - twice
    adapted = attach_lora(skeleton, quatrain.LoraConfig())
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape.adapter_parameters == trained
    assert made.exact == shape.fused


def test_a_plan_takes_less_than_a_second():
    quatrain.plan(LLAMA_1B, gpu="h100")
    began = time.process_time()
    quatrain.plan(LLAMA_405B, gpu="h200", memory="139GB", host_memory="110GB")
    assert time.process_time() - began < 1


def test_a_file_a_folder_and_settings_name_the_same_base(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    from_file = quatrain.plan(tmp_path / "config.json", gpu="h200", memory="24GB", host_memory="64GB")
    assert from_file == quatrain.plan(tmp_path, gpu="h200", memory="24GB", host_memory="64GB")
    run = settings(model=str(tmp_path), memory="24GB")
    assert from_file == quatrain.plan(run, gpu="h200", host_memory="64GB")
    assert from_file.needed <= from_file.budget == 24 * 10**9


def test_on_this_cpu_the_host_is_the_device():
    made = quatrain.plan(config_of("llama").to_dict())
    assert made.device == "cpu" and not made.exact and not made.host_bytes
    ours = settings(fused_blocks="on", model="x")
    shape: ModelShape = planning.base_shape(ours, config_of("llama").to_dict(), 4)
    assert shape.item == 4


def test_micro_batches_are_cut_anew_only_for_a_budget():
    run = settings(model="x", per_device_train_batch_size=2, gradient_accumulation_steps=3, max_length=512)
    assert planning._rows_at_once(run, free=False) == (2,)
    assert planning._rows_at_once(run, free=True) == (1, 2, 3, 6)
    made = quatrain.plan(LLAMA_8B, gpu="rtx4090", memory="23GB", host_memory="64GB")
    planned = planning.as_planned(settings(), made)
    assert planned.per_device_train_batch_size * planned.gradient_accumulation_steps == 4
    assert planned.per_device_train_batch_size * planned.max_length == made.micro_batch_tokens


@pytest.mark.parametrize(
    "memory, said",
    [
        ("4.4GB", "at least .* It would fit with `max_length: "),
        ("4.2GB", "`quantize_head`, `quantize_embeddings` and"),
        ("1GB", "smaller model or a larger device"),
    ],
)
def test_a_budget_that_is_too_small_is_refused_with_a_remedy(memory, said):
    with pytest.raises(BudgetError, match=said):
        quatrain.plan(LLAMA_8B, gpu="rtx4090", memory=memory)


def test_the_remedy_fits():
    with pytest.raises(BudgetError) as refused:
        quatrain.plan(LLAMA_8B, gpu="rtx4090", memory="4.4GB", host_memory="64GB")
    length = int(str(refused.value).split("`max_length: ")[1].split("`")[0])
    shorter = settings(max_length=length, model="x")
    request = planning.request_for(shorter, LLAMA_8B, gpu="rtx4090", memory="4.4GB", host_memory="64GB")
    assert make_plan(request).needed <= 4.4e9 and length < 2048


def test_a_host_without_memory_to_stream_reads_from_disk_and_is_told_so():
    rich = quatrain.plan(LLAMA_70B, gpu="rtx4090", host_memory="64GB")
    poor = quatrain.plan(LLAMA_70B, gpu="rtx4090", host_memory="8GB")
    assert rich.streamed_blocks and not rich.disk_blocks
    assert poor.disk_blocks and any("read from disk" in note for note in poor.notes)
    assert poor.seconds > rich.seconds and poor.host_bytes <= 8e9


def test_what_cant_be_understood_is_said(tmp_path):
    with pytest.raises(ConfigError, match="did you mean rtx4090"):
        quatrain.plan(LLAMA_8B, gpu="rtx4091")
    with pytest.raises(ConfigError, match="24GB"):
        quatrain.plan(LLAMA_8B, memory="24")
    with pytest.raises(ModelError, match="model_type"):
        (tmp_path / "config.json").write_text("{}")
        quatrain.plan(tmp_path)
    with pytest.raises(ModelError, match="hidden_size"):
        quatrain.plan({"model_type": "llama"}, gpu="h100")
    with pytest.raises(ModelError, match="must be one that"):
        quatrain.plan({"model_type": "perceptron"}, gpu="h100")
    with pytest.raises(ConfigError, match="24GB"):
        settings(memory="lots")


def test_adapters_go_where_the_settings_say():
    some = quatrain.LoraConfig(r=8, target_modules="q_proj, v_proj", layers_to_transform="0-1")
    shape = planning.base_shape(settings(lora=some, keep_in_16bit="o_proj"), LLAMA_1B, 2)
    assert sum(linear.rank > 0 for linear in shape.linears) == 4
    assert {linear.name for linear in shape.linears if not linear.four_bits} == {"self_attn.o_proj"}


def test_a_run_follows_its_plan_and_is_measured_against_it(config_for):
    config = config_for(memory="8GB", fused_blocks="on", max_steps=2, gradient_accumulation_steps=2, eval_data=None)
    result = quatrain.train(None, None, config, progress=False)
    events = read_events(result.folder.events)
    (said,) = [event for event in events if isinstance(event, Planned)]
    (found,) = [event for event in events if isinstance(event, PlanChecked)]
    assert sum(said.parts.values()) <= said.peak == found.predicted_peak < 8e9
    assert found.measured_peak > 0 and found.measured_seconds > 0
    assert "predicted" in str(summarize(result.folder))
    kept = read_config(result.folder.config)
    assert kept.per_device_train_batch_size * kept.gradient_accumulation_steps == 2


def test_8_bits_are_chosen_only_where_the_settings_allow_them():
    """Without the setting the plan is one of exact gradients, and names what 8 bits would bring."""
    asked = {"gpu": "rtx4090", "memory": "10GB", "host_memory": "64GB"}
    exact = make_plan(planning.request_for(settings(model="x"), LLAMA_8B, **asked))
    allowed = make_plan(planning.request_for(settings(model="x", activations_8bit=True), LLAMA_8B, **asked))
    assert "gate_up_8bit" not in exact.policies and "gate_up_8bit" in allowed.policies
    assert allowed.seconds < exact.seconds and allowed.needed <= 10e9
    assert any("with `activations_8bit`" in note for note in exact.notes)
    assert not any("activations_8bit" in note for note in allowed.notes)
    assert {choice.policy for choice in exact.choices if choice.ruled_out} == {"gate_up_8bit"}
