"""A run that is stopped anywhere and resumed is the run that was never stopped, to the last bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from quatrain.adapters import LoraConfig
from quatrain.models.objective import Objective
from quatrain.runlog import CheckpointSaved, Evaluated, Noted, RunFinished, RunFolder, StepDone, read_events
from quatrain.training import RunConfig, interrupt, measure, train
from quatrain.training.state import read_state
from tests.training.same import assert_same


@pytest.fixture
def config(config_for) -> RunConfig:
    """Six steps of three micro-batches with dropout, over epochs of seven: most epochs end within a step."""
    return config_for(
        lora=LoraConfig(r=4, lora_alpha=8, lora_dropout=0.2),
        max_steps=6,
        gradient_accumulation_steps=3,
        max_length=48,
        logging_steps=3,
        save_steps=4,
        eval_steps=5,
    )


@contextmanager
def stopped_after(micro_batches: int, monkeypatch: pytest.MonkeyPatch, *, patience: float) -> Iterator[None]:
    """Within it, SIGTERM comes after so many micro-batches."""
    done, accumulate = 0, Objective.accumulate

    def count(self: Objective, batch):
        nonlocal done
        done += 1
        if done == micro_batches:
            signal.raise_signal(signal.SIGTERM)
        return accumulate(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "accumulate", count)
        patch.setattr(interrupt, "PATIENCE_S", patience)
        yield


def go(config: RunConfig, **options):
    return train(None, None, config, progress=False, **options)


def stop_and_resume(config: RunConfig, monkeypatch, *stops: int, patience: float) -> RunFolder:
    """The folder of a run that was stopped after each of so many micro-batches, counted anew each time."""
    folder, resume = RunFolder(Path(config.output_dir)), False
    for stop in stops:
        with stopped_after(stop, monkeypatch, patience=patience):
            assert go(config, resume=resume).status == "interrupted"
        resume = True
    assert go(config, resume=True).status == "completed"
    return folder


VARIANTS = {
    "packed": {},
    "padded": {"packing": False, "per_device_train_batch_size": 2},
    "own blocks": {"fused_blocks": "on"},
    "wide moments": {"optim": "adamw_32bit"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_in_the_middle_of_an_accumulation_and_of_an_epoch(config, variant, tmp_path, monkeypatch):
    config = replace(config, **VARIANTS[variant])
    whole = go(replace(config, output_dir=str(tmp_path / "whole"))).folder
    parts = replace(config, output_dir=str(tmp_path / "parts"))
    # Within step 1 after a micro-batch, then within step 4 after two.
    assert_same(whole, stop_and_resume(parts, monkeypatch, 1, 10, patience=0))


def test_a_step_that_ends_in_time_is_finished(config, monkeypatch):
    folder = RunFolder(Path(config.output_dir))
    with stopped_after(5, monkeypatch, patience=60):
        assert go(config).step == 2
    assert folder.checkpoint_steps() == [2]
    assert read_state(folder.checkpoint(2) / "state.json").progress.losses == ()
    assert sum(e.tokens for e in read_events(folder.events) if isinstance(e, StepDone)) == tokens_of(folder)


def tokens_of(folder: RunFolder) -> int:
    """Of all steps, as the last checkpoint has it; the log must add up to it, whatever `logging_steps` is."""
    return read_state(folder.checkpoint(folder.checkpoint_steps()[-1]) / "state.json").progress.tokens


def test_what_is_left_of_a_step_is_said_by_the_checkpoint(config, monkeypatch):
    folder = RunFolder(Path(config.output_dir))
    with stopped_after(5, monkeypatch, patience=0):
        assert go(config).step == 1
    state = read_state(folder.checkpoint(1) / "state.json")
    assert len(state.progress.losses) == 2
    assert state.data["index"] == 3


def test_a_measurement_that_was_broken_off_is_made_up_for(config, tmp_path, monkeypatch):
    whole = go(replace(config, output_dir=str(tmp_path / "whole"))).folder
    evaluate, calls = measure.evaluate_loss, 0

    def stopped(objective, batches):
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(objective, batches)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "evaluate_loss", stopped)
        first = go(config)
    assert (first.status, first.step) == ("interrupted", 5)
    assert go(config, resume=True).status == "completed"
    assert evaluated(whole) == evaluated(first.folder)


def evaluated(folder: RunFolder) -> list[tuple[int, float | None]]:
    return [(e.step, e.loss) for e in read_events(folder.events) if isinstance(e, Evaluated)]


@pytest.mark.gpu
def test_on_a_gpu_with_deterministic_kernels(config, tmp_path, monkeypatch):
    config = replace(config, device="cuda", compute_dtype="bfloat16", fused_blocks="on", full_determinism=True)
    whole = go(replace(config, output_dir=str(tmp_path / "whole"))).folder
    parts = replace(config, output_dir=str(tmp_path / "parts"))
    assert_same(whole, stop_and_resume(parts, monkeypatch, 1, 10, patience=0))
    assert not torch.are_deterministic_algorithms_enabled()


def start(config: RunConfig, tmp_path: Path) -> subprocess.Popen[str]:
    """`quatrain train` as a process of its own."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(asdict(config) | {"keep_in_16bit": [], "lora": {"r": 2}}))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from quatrain.cli import main; main()", "train", str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def has_saved(folder: RunFolder) -> bool:
    return folder.events.exists() and any(isinstance(e, CheckpointSaved) for e in read_events(folder.events))


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], pytest.param([signal.SIGINT, signal.SIGTERM], marks=pytest.mark.faults)]
)
def test_a_process_that_is_told_to_end_leaves_with_130_and_a_checkpoint(config_for, tmp_path, signals):
    config = config_for(max_steps=100_000, save_steps=1, eval_data=None, task_eval=None)
    folder = RunFolder(Path(config.output_dir))
    process = start(config, tmp_path)
    try:
        wait_for(lambda: has_saved(folder), process)
        for number in signals:
            process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "go on with: quatrain train --resume" in out
    last = read_events(folder.events)[-1]
    assert isinstance(last, RunFinished) and last.status == "interrupted"
    # Whatever the second signal broke off, there is a whole checkpoint to go on from, and no lock in the way.
    more = replace(config, max_steps=folder.checkpoint_steps()[-1] + 1, lora=LoraConfig(r=2))
    result = go(more, resume=True)
    assert result.status == "completed"
    assert not [e for e in read_events(folder.events) if isinstance(e, Noted) and "took the folder" in e.message]
