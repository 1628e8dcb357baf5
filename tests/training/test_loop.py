"""Whole runs on the small Llama: they learn, leave a complete folder, and resume exactly."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quatrain.adapters import LoraConfig, read_adapter
from quatrain.errors import CheckpointError, ConfigError, DataError
from quatrain.evaluation import TaskConfig
from quatrain.models.objective import Objective
from quatrain.runlog import (
    AdapterSaved,
    CheckpointSaved,
    Evaluated,
    Event,
    Noted,
    RunFinished,
    RunStarted,
    Sampled,
    StepDone,
    read_events,
)
from quatrain.runlog.owner import this_process, to_json
from quatrain.training import RunConfig, train


def run(config: RunConfig, **options):
    return train(None, None, config, progress=False, **options)


def adapter_of(config: RunConfig) -> dict[str, torch.Tensor]:
    return load_file(f"{config.output_dir}/adapter/adapter_model.safetensors")


def of_kind(result, kind: type[Event]) -> list:
    return [e for e in read_events(result.folder.events) if isinstance(e, kind)]


def test_a_run_learns_and_leaves_a_complete_folder(config_for, rows):
    task = TaskConfig(data=str(rows), max_new_tokens=4, max_rows=3, samples=2)
    config = config_for(eval_steps=5, save_steps=6, task_eval=task, num_train_epochs=6.0, gradient_accumulation_steps=1)
    result = run(config)
    steps, evaluations = of_kind(result, StepDone), of_kind(result, Evaluated)
    (started,) = of_kind(result, RunStarted)
    assert result.status == "completed"
    assert [s.step for s in steps] == list(range(1, started.total_steps + 1))
    losses = [e.loss for e in evaluations if e.split == "held-out"]
    assert losses[-1] < losses[0] - 0.5
    assert [e.step for e in evaluations if e.split == "task"] == [0, result.step]
    assert len(of_kind(result, Sampled)) == 4
    assert steps[-1].epoch == pytest.approx(6.0)
    assert len(of_kind(result, RunFinished)) == 1
    assert result.folder.checkpoint_steps() == [[*range(6, result.step, 6)][-1], result.step]
    assert len(of_kind(result, CheckpointSaved)) >= 2
    (saved,) = of_kind(result, AdapterSaved)
    stored = read_adapter(result.folder.path / saved.path)
    assert saved.norms == pytest.approx({n: float(x.delta().norm()) for n, x in stored.layers.items()}, rel=1e-3)
    for path in (result.folder.config, result.folder.report, result.folder.adapter, result.folder.tensorboard):
        assert path.exists()


def test_a_folder_with_a_run_is_not_touched_without_being_told(config_for):
    config = config_for(max_steps=1)
    run(config)
    with pytest.raises(CheckpointError, match="already holds a run"):
        run(config)
    run(config, overwrite=True)


def test_a_live_run_keeps_its_folder_and_a_dead_one_does_not(config_for):
    config, refused = config_for(max_steps=1), []

    def start_another(event: Event) -> None:
        if isinstance(event, StepDone):
            for how in ({}, {"overwrite": True}, {"resume": True}):
                with pytest.raises(CheckpointError, match=rf"process {os.getpid()} on .* \(since") as error:
                    run(config, **how)
                refused.append(error)

    result = run(config, sinks=[start_another])
    assert len(refused) == 3 and result.status == "completed" and len(of_kind(result, StepDone)) == 1
    lock = result.folder.path / "run.lock"
    assert not lock.exists()

    lock.write_bytes(to_json(replace(this_process(), birth="before")))
    again = run(config, overwrite=True)
    assert [note.message for note in of_kind(again, Noted) if "took the folder over from" in note.message]
    assert not lock.exists()


def test_resuming_where_nothing_is(config_for):
    with pytest.raises(CheckpointError, match="no run"):
        run(config_for(), resume=True)
    assert not Path(config_for().output_dir).exists()


def test_resuming_on_other_data_is_refused(config_for, tmp_path, rows):
    config = config_for(max_steps=2)
    run(config)
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(rows.read_text().splitlines()[:5]) + "\n")
    with pytest.raises(CheckpointError, match="the data changed"):
        run(config_for(max_steps=4, data=str(other)), resume=True)


def test_a_step_without_a_finite_gradient_is_not_taken(config_for, tiny_llama_dir):
    from quatrain.adapters import adapter_parameters, attach_lora
    from quatrain.errors import QuatrainError
    from quatrain.models import load_model

    model, tokenizer = load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")
    attach_lora(model, LoraConfig(r=2))
    next(iter(adapter_parameters(model).values())).data.fill_(float("inf"))
    with pytest.raises(QuatrainError, match="5 steps in a row"):
        train(model, tokenizer, config_for(max_steps=9), progress=False)


def test_training_goes_on_from_a_stored_adapter(config_for, tmp_path):
    first = run(config_for(output_dir=str(tmp_path / "one")))
    again = config_for(output_dir=str(tmp_path / "two"), adapter=str(first.folder.adapter), max_steps=1)
    began = of_kind(run(again), Evaluated)[0]
    assert began.loss == pytest.approx(of_kind(first, Evaluated)[-1].loss, rel=1e-5)


def test_gradient_checkpointing_changes_nothing(config_for, tmp_path):
    runs = [
        run(config_for(output_dir=str(tmp_path / mode), max_steps=3, gradient_checkpointing=mode))
        for mode in ("on", "off")
    ]
    on, off = ([s.loss for s in of_kind(r, StepDone)] for r in runs)
    assert on == pytest.approx(off, rel=1e-6)


def test_a_model_without_its_tokenizer_is_refused(config_for):
    with pytest.raises(ConfigError, match="tokenizer"):
        train(torch.nn.Linear(1, 1), None, config_for(), progress=False)


def raise_at_step(number: int):
    def interrupt(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == number:
            signal.raise_signal(signal.SIGINT)

    return interrupt


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora": LoraConfig(r=8)}, r"`lora\.r`.*`lora\.lora_alpha`"),
        ({"gradient_accumulation_steps": 1}, "`gradient_accumulation_steps`"),
    ],
)
def test_resuming_with_another_shape_is_refused_before_anything_loads(config_for, change, words):
    run(config_for(), sinks=[raise_at_step(2)])
    with pytest.raises(CheckpointError, match=words):
        run(config_for(**change), resume=True)


def test_resuming_with_another_rate_goes_on_and_says_so(config_for):
    run(config_for(), sinks=[raise_at_step(2)])
    result = run(config_for(learning_rate=5e-3), resume=True)
    assert any("`learning_rate`: it was 0.01 and is 0.005" in note.message for note in of_kind(result, Noted))


def test_resuming_on_another_base_is_refused(config_for, tiny_llama_dir, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    run(config_for(), sinks=[raise_at_step(2)])
    torch.manual_seed(9)
    other = tmp_path / "other-base"
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_llama_dir)).save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_llama_dir).save_pretrained(other)
    with pytest.raises(CheckpointError, match="another base"):
        run(config_for(model=str(other)), resume=True)


def test_a_damaged_checkpoint_is_named(config_for):
    first = run(config_for(), sinks=[raise_at_step(2)])
    (first.folder.checkpoint(2) / "optimizer.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"step-000002 is damaged"):
        run(config_for(), resume=True)


def test_overwriting_removes_nothing_until_the_new_run_can_begin(config_for):
    first = run(config_for(max_steps=1))
    with pytest.raises(DataError):
        run(config_for(data="no/such/rows.jsonl"), overwrite=True)
    assert adapter_of(config_for())
    again = config_for(max_steps=1, adapter=str(first.folder.adapter))
    assert run(again, overwrite=True).status == "completed"


def test_a_missing_task_is_found_before_training(config_for):
    with pytest.raises(DataError):
        run(config_for(task_eval=TaskConfig(data="no/such/rows.jsonl", before=False)))


def test_an_interrupted_measurement_ends_the_run_with_a_checkpoint(config_for, rows):
    task = TaskConfig(data=str(rows), max_new_tokens=2, batch_size=1)

    def interrupt(event: Event) -> None:
        if isinstance(event, RunStarted):
            signal.raise_signal(signal.SIGINT)

    result = run(config_for(task_eval=task, max_steps=2), sinks=[interrupt])
    assert (result.status, result.step) == ("interrupted", 0)
    assert result.folder.checkpoint_steps() == [0]
    assert run(config_for(task_eval=task, max_steps=2), resume=True).status == "completed"


def test_a_run_that_fails_is_recorded_as_failed(config_for, monkeypatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("out of luck")

    config = config_for()
    monkeypatch.setattr(Objective, "accumulate", fail)
    with pytest.raises(RuntimeError):
        run(config)
    events = read_events(Path(config.output_dir) / "events.jsonl")
    assert isinstance(events[-1], RunFinished) and events[-1].status == "failed"
    assert any(isinstance(e, Noted) and e.level == "error" for e in events)


def test_an_event_covers_the_steps_since_the_last(config_for, tmp_path):
    each = run(config_for(output_dir=str(tmp_path / "each")))
    some = run(config_for(output_dir=str(tmp_path / "some"), logging_steps=4))
    assert sum(s.tokens for s in of_kind(each, StepDone)) == sum(s.tokens for s in of_kind(some, StepDone))
    assert len(of_kind(some, StepDone)) < len(of_kind(each, StepDone))


def test_a_handed_over_model_is_described_in_the_run_folder(config_for, tiny_llama_dir):
    from quatrain.models import load_model
    from quatrain.training import read_config

    model, tokenizer = load_model(tiny_llama_dir, quantization="fp4", compute_dtype="float32", device="cpu")
    result = train(model, tokenizer, config_for(model=None, max_steps=1), progress=False)
    stored = read_config(result.folder.config)
    assert (stored.model, stored.quantization) == (str(tiny_llama_dir), "fp4")
    named = json.loads((result.folder.adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tiny_llama_dir)
    assert not model.training


def test_a_run_on_a_handed_over_model_is_resumed(config_for, tiny_llama_dir):
    from quatrain.models import load_model

    def fresh():
        return load_model(tiny_llama_dir, quantization="fp4", compute_dtype="float32", device="cpu")

    config = config_for(model=None)
    train(*fresh(), config, progress=False, sinks=[raise_at_step(2)])
    assert train(*fresh(), config, progress=False, resume=True).status == "completed"


def test_a_loaded_adapter_is_trained_on(config_for, tiny_llama_dir, tmp_path):
    from quatrain.adapters import load_adapter
    from quatrain.models import load_model

    first = run(config_for(output_dir=str(tmp_path / "first"), max_steps=1))
    model, tokenizer = load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")
    load_adapter(model, first.folder.adapter)
    assert train(model, tokenizer, config_for(max_steps=2), progress=False).status == "completed"


def test_few_rows_dont_save_at_every_step(config_for):
    result = run(config_for(max_steps=40, gradient_accumulation_steps=10, save_total_limit=99))
    assert len(of_kind(result, CheckpointSaved)) <= 21


def test_notes_say_what_was_decided(config_for):
    assert not of_kind(run(config_for(max_steps=1)), Noted)
