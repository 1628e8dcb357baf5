"""Whole runs on the small Llama: they learn, leave a complete folder, and resume exactly."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from quatrain.adapters import LoraConfig
from quatrain.errors import CheckpointError, ConfigError
from quatrain.evaluation import TaskConfig
from quatrain.runlog import (
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
    for path in (result.folder.config, result.folder.report, result.folder.adapter, result.folder.tensorboard):
        assert path.exists()


@pytest.mark.parametrize(
    "changes", [{}, {"packing": False, "per_device_train_batch_size": 3}, {"optim": "adamw_32bit"}]
)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(config_for, tmp_path, changes):
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.2)
    whole = config_for(output_dir=str(tmp_path / "whole"), lora=lora, **changes)
    expected = run(whole)

    def interrupt(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    halves = config_for(output_dir=str(tmp_path / "halves"), lora=lora, **changes)
    first = run(halves, sinks=[interrupt])
    assert (first.status, first.step) == ("interrupted", 3)
    second = run(halves, resume=True)
    assert second.step == expected.step
    one, two = adapter_of(whole), adapter_of(halves)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    key = [(s.step, s.loss, s.grad_norm, s.learning_rate, s.epoch) for s in of_kind(expected, StepDone)]
    assert key == [(s.step, s.loss, s.grad_norm, s.learning_rate, s.epoch) for s in of_kind(second, StepDone)]


def test_padded_and_packed_runs_are_the_same_training(config_for, tmp_path):
    """One step over all rows: how they lie in memory must not matter."""
    packed = config_for(output_dir=str(tmp_path / "packed"), max_steps=1, gradient_accumulation_steps=50)
    padded = config_for(
        output_dir=str(tmp_path / "padded"), max_steps=1, gradient_accumulation_steps=1, packing=False,
        per_device_train_batch_size=24,
    )  # fmt: skip
    steps = []
    for config in (packed, padded):
        (step,) = of_kind(run(config), StepDone)
        steps.append(step)
    # 50 micro-batches are several epochs of the packed run, so means over tokens agree, not the counts.
    assert steps[0].loss == pytest.approx(steps[1].loss, rel=2e-2)


def test_a_folder_with_a_run_is_not_touched_without_being_told(config_for):
    config = config_for(max_steps=1)
    run(config)
    with pytest.raises(CheckpointError, match="already holds a run"):
        run(config)
    run(config, overwrite=True)


def test_resuming_where_nothing_is(config_for):
    with pytest.raises(CheckpointError, match="no run"):
        run(config_for(), resume=True)


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


def test_notes_say_what_was_decided(config_for):
    assert not of_kind(run(config_for(max_steps=1)), Noted)
