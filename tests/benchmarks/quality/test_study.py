"""Who works on what, and when: lanes of threads in the place of processes."""

import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from typing import Any

import pytest
import torch

from benchmarks.quality import study
from benchmarks.quality.cell import Cell, Where
from benchmarks.quality.study import Study
from benchmarks.quality.tables.learning_rates import chosen, wanted

DEVICES = [torch.device("cuda", 0), torch.device("cuda", 1)]
WHERE = Where(model="base", data={}, device=DEVICES[0])


class Notes:
    """In the place of result files: what was added."""

    def __init__(self):
        self.added: list[Cell] = []

    def add(self, cell: Cell, measured: dict[str, Any]) -> None:
        self.added.append(cell)


@pytest.fixture
def lanes(monkeypatch):
    monkeypatch.setattr(Study, "_pool", lambda self, slots: ThreadPoolExecutor(slots))


def cell(number: int, *, alone: bool = False) -> Cell:
    return Cell(table="t", measure="training", settings={"number": number}, alone=alone)


def left(cells: list[Cell], notes: Any):
    return lambda: [c for c in cells if c not in notes.added]


def test_a_cell_whose_time_counts_has_the_first_device_for_itself(lanes, monkeypatch):
    spans: list[tuple[bool, torch.device, float, float]] = []

    def measure(cell: Cell, where: Where) -> tuple[dict[str, Any], float]:
        began = time.monotonic()
        time.sleep(0.01)
        spans.append((cell.alone, where.device, began, time.monotonic()))
        return {}, 0.0

    monkeypatch.setattr(study, "measure", measure)
    cells, notes = [cell(i, alone=i in (3, 7)) for i in range(12)], Notes()
    with Study(notes, DEVICES, 2, lambda _: None) as running:  # pyright: ignore
        running.measure(left(cells, notes), WHERE)
    assert len(notes.added) == 12 and {device for _, device, _, _ in spans} == set(DEVICES)
    timed = [span for span in spans if span[0]]
    for _, device, began, ended in timed:
        assert device == DEVICES[0]
        others = [span for span in spans if span[1] == device and span[2] != began]
        assert all(end <= began or start >= ended for _, _, start, end in others)


def test_a_process_that_dies_costs_a_second_try(lanes, monkeypatch):
    died: list[int] = []

    def measure(cell: Cell, where: Where) -> tuple[dict[str, Any], float]:
        if cell.settings["number"] == 1 and not died:
            died.append(1)
            raise BrokenExecutor
        return {}, 0.0

    monkeypatch.setattr(study, "measure", measure)
    cells, notes = [cell(i) for i in range(3)], Notes()
    with Study(notes, DEVICES, 1, lambda _: None) as running:  # pyright: ignore
        running.measure(left(cells, notes), WHERE)
    assert died and len(notes.added) == 3


def test_a_grid_grows_until_the_best_rate_lies_inside():
    tried = {5e-4: 3.0, 1.5e-3: 2.0}
    assert wanted("lora", tried, 3) == [4e-3]
    tried[4e-3] = 1.0
    assert wanted("lora", tried, 3) == [1e-2] and not chosen({"gsm8k, lora, nf4, all": tried}, 3)
    tried[1e-2] = 1.5
    assert wanted("lora", tried, 3) == [] and chosen({"gsm8k, lora, nf4, all": tried}, 3) == {
        "gsm8k, lora, nf4, all": 4e-3
    }
    assert wanted("prompt", {2e-2: 3.0, 1e-1: 2.0, 5e-1: 1.0}, 3) == []
    assert wanted("full", {}, 1) == [1e-4]
