"""What a resumed run's config changes: fatal, noted or harmless, and everything of a kind is listed."""

from dataclasses import fields, replace

import pytest

from quatrain.adapters import LoraConfig
from quatrain.errors import CheckpointError
from quatrain.runlog import Noted, RunStarted, read_events
from quatrain.training import RunConfig, resume, train
from quatrain.training.resume import differences, moved

BEFORE = RunConfig(data="rows.jsonl", model="base")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"lora": LoraConfig(r=8)}, "fatal"),
        ({"lora": LoraConfig(target_modules=["q_proj"])}, "fatal"),
        ({"quantization": "fp4"}, "fatal"),
        ({"max_length": 64}, "fatal"),
        ({"packing": False}, "fatal"),
        ({"seed": 1}, "fatal"),
        ({"optim": "adamw_32bit"}, "fatal"),
        ({"gradient_accumulation_steps": 1}, "fatal"),
        ({"data": "moved.jsonl"}, "noted"),
        ({"model": "moved"}, "noted"),
        ({"revision": "main"}, "noted"),
        ({"learning_rate": 1e-5}, "noted"),
        ({"max_steps": 9}, "noted"),
        ({"device": "cpu"}, "noted"),
        ({"fused_blocks": "on"}, "noted"),
        ({"full_determinism": True}, "noted"),
        ({"output_dir": "elsewhere"}, "harmless"),
        ({"save_steps": 5}, "harmless"),
        ({"eval_data": "held_out.jsonl"}, "harmless"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_kinds(changes, kind):
    found = differences(BEFORE, replace(BEFORE, **changes))
    assert {name: bool(getattr(found, name)) for name in ("fatal", "noted", "harmless")} == {
        name: name == kind for name in ("fatal", "noted", "harmless")
    }


def test_the_same_config_has_none():
    found = differences(BEFORE, replace(BEFORE))
    assert not (found.fatal or found.noted or found.harmless)


def test_a_difference_names_setting_and_both_values():
    found = differences(BEFORE, replace(BEFORE, lora=LoraConfig(r=8), learning_rate=1e-5))
    assert "`lora.r`: it was 16 and is 8" in found.fatal
    assert found.noted == ("`learning_rate`: it was 0.0002 and is 1e-05",)


def test_all_that_is_fatal_is_listed_before_anything_loads(config_for):
    train(None, None, config_for(max_steps=1, eval_data=None), progress=False)
    other = config_for(max_steps=2, lora=LoraConfig(r=8, lora_alpha=8), seed=1, model="no/such/base")
    with pytest.raises(CheckpointError, match=r"`lora\.r`: it was 4 and is 8; `seed`.*would not hinder: `model`"):
        train(None, None, other, progress=False, resume=True)


def test_what_changed_is_in_the_log(config_for):
    train(None, None, config_for(max_steps=1, eval_data=None), progress=False)
    other = config_for(max_steps=2, eval_data=None, save_steps=1)
    folder = train(None, None, other, progress=False, resume=True).folder
    said = [e.message for e in read_events(folder.events) if isinstance(e, Noted)]
    assert any("resumed with other settings: `max_steps`: it was 1 and is 2" in words for words in said)
    assert any("change nothing of the result: `save_steps`" in words for words in said)


def test_every_setting_has_its_kind_by_its_name():
    assert {*resume._FATAL, *resume._HARMLESS} <= {field.name for field in fields(RunConfig)}
    assert not set(resume._FATAL) & set(resume._HARMLESS)


def started(device: str = "CPU", **versions: str) -> RunStarted:
    return RunStarted(
        base="base",
        device=device,
        total_steps=1,
        trainable_parameters=1,
        total_parameters=1,
        base_bytes=1,
        compute_dtype="float32",
        rows=1,
        tokens=1,
        supervised_tokens=1,
        versions=versions,
    )


def test_another_device_or_version_is_said():
    before = started(torch="2.11", triton="3.6")
    assert moved(before, started(torch="2.11", triton="3.6")) is None
    said = moved(before, started("NVIDIA H200", torch="2.13", triton="3.6"))
    assert said == "device CPU → NVIDIA H200, torch 2.11 → 2.13: its steps may differ in the last bits"
