"""One measurement of a study: what it is decides its place in the result file, and nothing else does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Measure = Literal["four_bits", "training"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Settings, and who measures them."""

    table: str
    """The result file that it belongs to."""
    measure: Measure
    settings: Mapping[str, Any]
    """All that decides the outcome; plain values that survive JSON."""
    alone: bool = False
    """Its time is a result, so nothing else runs on the device meanwhile."""

    @property
    def key(self) -> str:
        """The same for the same cell."""
        return json.dumps([self.table, dict(self.settings)], sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Where:
    """What every cell of one call shares."""

    model: str
    """The base in 16 bits: anything that `load_model` takes."""
    data: Mapping[str, str]
    """Files by the names of :mod:`tasks`."""
    device: torch.device
    deadline: float = float("inf")
    """Unix time at which a cell that isn't done is given up."""


class OutOfTime(Exception):
    """The deadline came before the cell's end."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a study is."""

    steps: int = 150
    """Optimizer steps of a training on GSM8K."""
    few_steps: int = 60
    """On OASST, whose few rows are then seen two and a half times."""
    longer: int = 450
    """Steps of the control that asks whether more training closes a gap."""
    rows: int = 16
    """Samples of a step."""
    held_out: int = 512
    """Samples of an evaluation."""
    answers: int = 256
    """Questions that are answered and scored, on the first seed."""
    timed: int = 30
    """Steps of a cell that is about time and memory only."""
    ranks: tuple[int, ...] = (4, 8, 16, 32, 64)
    block_sizes: tuple[int, ...] = (32, 64, 128, 256)
    seeds: tuple[int, ...] = (1, 2, 3)
    grid: int = 3
    """Learning rates that are tried for a method at first."""

    def answers_on(self, task: str, seed: int) -> int:
        """Questions that a run of this seed answers: the first one's, and GSM8K's."""
        return self.answers if task == "gsm8k" and seed == self.seeds[0] else 0

    def steps_on(self, task: str) -> int:
        """Steps of a training on `task`."""
        return self.steps if task == "gsm8k" else self.few_steps


@dataclass(frozen=True)
class Plan:
    """What tables make their cells from."""

    scale: Scale
    rates: Mapping[str, float] = field(default_factory=dict)
    """The chosen learning rate of each contest of :mod:`tables.learning_rates` that is decided."""
    tried: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    """The losses of each contest so far, by rate."""


QUICK = Scale(
    steps=2,
    few_steps=2,
    longer=3,
    rows=2,
    held_out=4,
    answers=2,
    timed=3,
    ranks=(16,),
    block_sizes=(64,),
    seeds=(1,),
    grid=1,
)
"""A rehearsal: every kind of cell once, with no meaning in its figures."""
