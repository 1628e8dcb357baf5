"""Loading and quantizing a 16-bit checkpoint whose files are in the page cache."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import HF, ONE_CORE, QUATRAIN, UNSLOTH, Case, Contender, Figures, Kind, Play, Row, Rows, Setting
from benchmarks.floor import HOST_TO_DEVICE, load_floor_ms
from benchmarks.gate import GATE_MODELS, loss_gate
from benchmarks.libraries import causal_lm, hf, ours, unsloth
from benchmarks.shapes import SHAPES
from benchmarks.timing import memory, step_ms

KIND = Kind(
    title="Loading",
    note="From a folder of safetensors in 16 bits to a model in four bits on the device, libraries imported and files "
    "in the page cache. The first load of a process counts. Floor: the 16-bit weights cross the bus once.",
    shows=("ms", "allocated_gib"),
)
LOAD = "load"
Load = Callable[[Path, torch.device], Any]

LOADERS: dict[Contender, tuple[Callable[[], None], Load]] = {
    HF: (hf.imports, hf.load),
    UNSLOTH: (unsloth.imports, unsloth.load),
    QUATRAIN: (ours.imports, ours.load),
}
"""What imports the library, and what loads a checkpoint with it."""


def measure(imports: Callable[[], None], load: Load, model: str, setting: Setting) -> Rows:
    """The first load of this process. A small model isn't loaded first, since that would compile the kernels."""
    folder = setting.models / model
    into_page_cache(folder)
    imports()
    torch.zeros(1, device=setting.device)
    row = Row(bytes=SHAPES[model].bytes_16bit)
    with memory(row, setting.device):
        row.samples_ms.append(step_ms(lambda: load(folder, setting.device), setting.device))
    return {LOAD: row}


def into_page_cache(folder: Path) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while stream.read(1 << 26):
                pass


def gate(load: Load, model: str, setting: Setting) -> dict[str, float]:
    def loss_of(folder: Path, ids_BS: Tensor) -> float:
        return causal_lm.loss(load(folder, setting.device), ids_BS)

    return loss_gate(loss_of, model, setting)


def floor(model: str, ceilings: Figures) -> Figures:
    rate = 1e9 * ceilings[HOST_TO_DEVICE]["gigabytes_per_second"]
    return {LOAD: {"ms": load_floor_ms(SHAPES[model], rate)}}


def _contenders(model: str) -> dict[Contender, Play]:
    return {
        who: Play(partial(measure, imports, load, model), partial(gate, load, model), gate_last=True)
        for who, (imports, load) in LOADERS.items()
    }


CASES = (
    Case(
        name="load_8b",
        kind=KIND,
        title="8B, load and quantize",
        contenders=_contenders("8b"),
        device="cuda",
        options={"model": "8b"},
        models=("8b", GATE_MODELS["8b"]),
        target={LOAD: {"ms": 2500}},
        floor=partial(floor, "8b"),
        limit_s=180,
    ),
    Case(
        name="selftest_loading",
        kind=KIND,
        title="a tiny model on a CPU, to test the benchmarks themselves",
        contenders=_contenders("tiny"),
        device="cpu",
        options={"model": "tiny"},
        models=("tiny",),
        environment=ONE_CORE,
        listed=False,
    ),
)
