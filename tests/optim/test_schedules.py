"""Schedules against those of transformers, step by step."""

import pytest
import torch
import transformers

from quatrain.errors import ConfigError
from quatrain.optim import SCHEDULES, lr_multiplier, warmup_steps


def theirs(name: str, warmup_steps: int, total_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_scheduler(name, optimizer, warmup_steps, total_steps)
    rates = []
    for _ in range(total_steps + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 10), (10, 10), (1, 1), (0, 1), (7, 100)])
def test_same_curve_as_transformers(name, warmup, total):
    name_there = "constant_with_warmup" if name == "constant" else name
    ours = [lr_multiplier(name, step, warmup_steps=warmup, total_steps=total) for step in range(total + 1)]
    assert ours == pytest.approx(theirs(name_there, warmup, total), abs=1e-12)


@pytest.mark.parametrize(("ratio", "total"), [(0.03, 100), (0.03, 101), (0.0, 7), (0.1, 15)])
def test_warmup_ratio_as_in_training_arguments(tmp_path, ratio, total):
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), warmup_steps=ratio)
    assert warmup_steps(ratio, total) == arguments.get_warmup_steps(total)


def test_a_run_of_one_step_trains():
    assert lr_multiplier("cosine", 0, warmup_steps=warmup_steps(0.03, 1), total_steps=1) == 1.0


@pytest.mark.parametrize(("name", "end"), [("linear", 0.0), ("cosine", 0.0), ("constant", 1.0)])
def test_after_the_last_step_the_curve_stays(name, end):
    assert [lr_multiplier(name, step, warmup_steps=3, total_steps=10) for step in (10, 11, 25)] == [end] * 3


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ConfigError, match="lr_scheduler_type must be one of linear, cosine, constant"):
        lr_multiplier("polynomial", 0, warmup_steps=0, total_steps=5)
