"""TensorBoard's own reader finds the scalars that a run logged, once each, also after a resume."""

import math

from quatrain.runlog import Evaluated, Noted, TensorBoardSink
from tests.events import step


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(point.step, point.value) for point in accumulator.Scalars(name)] for name in names}


def test_steps_and_evaluations_become_scalars(tmp_path):
    with TensorBoardSink(tmp_path) as sink:
        sink(Noted(message="not a number"))
        sink(step(1, loss=2.5))
        sink(step(2, loss=math.nan))
        sink(Evaluated(step=2, split="held-out", metrics={"exact_match": 0.75}, seconds=1.0))
    found = scalars(tmp_path)
    assert found["train/loss"] == [(1, 2.5)]
    assert found["speed/tokens_per_second"] == [(1, 1024.0), (2, 1024.0)]
    assert found["memory/GiB"][0] == (1, 1.0) and found["memory/peak_GiB"][0] == (1, 2.0)
    assert found["held-out/exact_match"] == [(2, 0.75)]
    assert found.keys() >= {"train/learning_rate", "train/grad_norm"} and "held-out/loss" not in found


def test_a_resumed_run_shows_each_step_once(tmp_path):
    with TensorBoardSink(tmp_path) as sink:
        for number in (1, 2, 3):
            sink(step(number, loss=1.0))
    with TensorBoardSink(tmp_path, resume_from=2) as sink:
        sink(step(3, loss=9.0))
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0), (3, 9.0)]
