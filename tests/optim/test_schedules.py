"""Schedules against those of transformers, step by step."""

import pytest
import torch
import transformers

from quatrain.errors import ConfigError
from quatrain.optim import SCHEDULES, Schedule, lr_multiplier


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


@pytest.mark.parametrize(("ratio", "total"), [(0.03, 100), (0.03, 101), (0.0, 7), (1.0, 7), (0.1, 15)])
def test_warmup_ratio_as_in_training_arguments(tmp_path, ratio, total):
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), warmup_steps=ratio)
    expected = arguments.get_warmup_steps(total) if ratio < 1 else total
    assert Schedule.from_ratio("linear", warmup_ratio=ratio, total_steps=total).warmup_steps == expected


@pytest.mark.parametrize(("name", "end"), [("linear", 0.0), ("cosine", 0.0), ("constant", 1.0)])
def test_after_the_last_step_the_curve_stays(name, end):
    assert [lr_multiplier(name, step, warmup_steps=3, total_steps=10) for step in (10, 11, 25)] == [end] * 3


def test_schedule_is_its_function():
    schedule = Schedule(name="cosine", warmup_steps=2, total_steps=9)
    assert [schedule(s) for s in range(9)] == [
        lr_multiplier("cosine", s, warmup_steps=2, total_steps=9) for s in range(9)
    ]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"name": "polynomial", "total_steps": 5}, "lr_scheduler_type must be one of linear, cosine, constant"),
        ({"total_steps": 0}, "total_steps"),
        ({"total_steps": 5, "warmup_steps": 6}, "warmup_steps must be between 0"),
    ],
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(ConfigError, match=match):
        Schedule(**settings)


def test_ratio_out_of_range():
    with pytest.raises(ConfigError, match="warmup_ratio"):
        Schedule.from_ratio("linear", warmup_ratio=1.5, total_steps=10)
