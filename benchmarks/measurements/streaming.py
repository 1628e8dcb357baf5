"""Models that are larger than the card: training steps with the process capped, weights streamed, state paged.

Models of random 4-bit weights. Those of one case share a process, and one set of blobs in pinned host memory: a case's
first row may keep copies of all of them on the device, to say what streaming costs the others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.case import ONE_CORE, QUATRAIN, Case, Kind, Play, Row, Rows, Setting
from benchmarks.shapes import SHAPES
from benchmarks.timing import release, step_ms
from benchmarks.work import LEARNING_RATE, MAX_GRAD_NORM

KIND = Kind(
    title="Models larger than the card",
    note="A training step on random weights and tokens, adapters on all linears, 8-bit AdamW, bfloat16; the caps are "
    "enforced on the process, its CUDA context included. GiB are the most that tensors occupied; percentages are of "
    "the speed of the case's first row.",
    shows=("context_tokens", "tokens_per_second", "allocated_gib", "speed_percent"),
)
_OVERHEAD = 1 << 29
"""Of a cap, for the CUDA context where it can't be read off (another process shares the card)."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row."""

    label: str
    lengths: tuple[int, ...]
    """Tokens of a sample; of several the first that fits."""
    samples: int = 1
    r: int = 16
    keep: str = "off"
    """A value of the setting `gradient_checkpointing`."""
    resident: int | None = None
    """Blocks of which the device keeps copies, beside those that are only there; None: all of them."""
    cap_gib: float | None = None
    paged: bool | str = True
    """AdamW's state: True, False or "auto"."""
    warm_up: int = 1
    steps: int = 2
    compared: bool = False
    """Whether its speed is told in percent of the first row's."""


@dataclass(frozen=True, kw_only=True)
class Tiers:
    """Where a model's blocks are kept. Those that are neither on the device nor on disk are on the host."""

    device: int = 0
    disk: int = 0
    slots: int = 2


class Trials:
    """A model of random weights, ready for the rows of its case."""

    def __init__(self, name: str, tiers: Tiers, device: torch.device, folder: Path):
        from benchmarks.random_models import random_model
        from quatrain.memory.choose import spread
        from quatrain.models.streaming import streamed_weights
        from quatrain.offload import Streaming

        self._shape, self._device, self._spread = SHAPES[name], device, spread
        self._context = _context(device)
        away = spread(self._shape.blocks - tiers.device, self._shape.blocks)
        disk = tuple(away[place] for place in spread(tiers.disk, len(away)))
        host = tuple(block for block in away if block not in disk)
        self.model = random_model(
            self._shape, device, Streaming(host=host, disk=disk, slots=tiers.slots, folder=folder)
        )
        weights = streamed_weights(self.model)
        assert weights is not None
        self._weights, self._away, self._rank = weights, away, 0
        self._engine: Any = None

    def run(self, trial: Trial, setting: Setting) -> Row:
        """Measure one row.

        Raises:
            torch.OutOfMemoryError: not even its shortest sample fits.
        """
        engine = self._engine_of(trial)
        parameters = list(engine.stack.adapter.parameters)
        optimizer = self._optimizer(parameters, trial)
        *longer, shortest = trial.lengths
        with _capped(trial.cap_gib, self._context, self._device):
            for length in (*longer, shortest):
                try:
                    return self._measured(trial, length, engine, parameters, optimizer, setting)
                except torch.OutOfMemoryError:
                    if length == shortest:
                        raise
                engine.abandon()
                release(self._device)
        raise AssertionError("a trial has a length")

    def _engine_of(self, trial: Trial) -> Any:
        """The engine with the trial's adapter, policy and resident blocks."""
        from quatrain import LoraConfig, attach_lora
        from quatrain.adapters import detach_lora
        from quatrain.blocks import POLICIES
        from quatrain.models.engine import Engine

        if self._engine is not None:
            self._engine.abandon()
        away = self._away
        streamed = self._spread(len(away) - trial.resident, len(away)) if trial.resident is not None else ()
        self._weights.reside([block for place, block in enumerate(away) if place not in streamed])
        if self._rank != trial.r:
            self._engine = None
            if self._rank:
                detach_lora(self.model)
            attach_lora(self.model, LoraConfig(r=trial.r, lora_alpha=trial.r))
            self._engine, self._rank = Engine(self.model.train()), trial.r
        engine: Any = self._engine
        engine.set_policy(POLICIES[trial.keep])
        release(self._device)
        return engine

    def _optimizer(self, parameters: list, trial: Trial) -> Any:
        from quatrain.optim import AdamW

        paged: Any = trial.paged
        return AdamW(parameters, lr=LEARNING_RATE, paged=paged)

    def _measured(
        self, trial: Trial, length: int, engine: Any, parameters: Any, optimizer: Any, setting: Setting
    ) -> Row:
        from quatrain.data import Sample
        from quatrain.data.batch import packed_batch
        from quatrain.training.step import train_step

        tokens = trial.samples * length
        learned = torch.ones(length, dtype=torch.bool).numpy()

        def step() -> None:
            ids = torch.randint(3, self._shape.vocabulary, (trial.samples, length), dtype=torch.int32)
            batch = packed_batch([Sample(row.numpy(), learned) for row in ids], 0, tokens=tokens, longest=length)
            train_step(engine, parameters, optimizer, [batch], max_grad_norm=MAX_GRAD_NORM)

        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        for _ in range(trial.warm_up):
            step()
        row = Row(tokens=tokens, values={"context_tokens": length, "paged": optimizer.is_paged})
        row.samples_ms = [step_ms(step, self._device) for _ in range(trial.steps)]
        if self._device.type == "cuda":
            stats = torch.cuda.memory_stats(self._device)
            row.allocated_gib = stats["active_bytes.all.peak"] / 2**30
            row.reserved_gib = stats["reserved_bytes.all.peak"] / 2**30
        return row


def measure(model: str, tiers: Tiers, trials: Sequence[Trial], setting: Setting) -> Rows:
    """A row for each trial, in their order."""
    runner, rows = Trials(model, tiers, setting.device, setting.models), {}
    for trial in trials:
        rows[trial.label] = runner.run(trial, setting)
        compare(rows, trial, trials[0])
    return rows


def compare(rows: Rows, trial: Trial, first: Trial) -> None:
    """Tell a trial's speed in percent of the first one's, where that is asked for."""
    if trial.compared and first.label in rows:
        ours, theirs = (_milliseconds_of_a_token(rows[label]) for label in (trial.label, first.label))
        rows[trial.label].values["speed_percent"] = round(100 * theirs / ours, 1)


def _milliseconds_of_a_token(row: Row) -> float:
    return median(row.samples_ms) / (row.tokens or 1)


def _context(device: torch.device) -> int:
    """Bytes of the device that are taken by what isn't a tensor."""
    if device.type != "cuda":
        return 0
    torch.empty(1, device=device)
    free, total = torch.cuda.mem_get_info(device)
    return max(_OVERHEAD, total - free - torch.cuda.memory_reserved(device))


@contextmanager
def _capped(cap_gib: float | None, context: int, device: torch.device) -> Iterator[None]:
    """The allocator refuses what would be beyond the cap."""
    from quatrain.device import limit_memory

    if cap_gib is None or device.type != "cuda":
        yield
        return
    limit_memory(device, int(cap_gib * 2**30) - context)
    try:
        yield
    finally:
        limit_memory(device, torch.cuda.get_device_properties(device).total_memory)


RESIDENT = "every block resident"
LONG = "65,536 tokens under 24 GiB, every block resident"
LARGE: dict[str, tuple[str, Tiers, tuple[Trial, ...], dict[str, dict[str, float]]]] = {
    "stream_70b": (
        "70b",
        Tiers(),
        (
            Trial(label=RESIDENT, lengths=(4096,), keep="offload"),
            Trial(label="under 24 GiB", lengths=(4096,), keep="offload", resident=26, cap_gib=24, compared=True),
            Trial(
                label="under 12 GiB", lengths=(4096,), keep="offload_attention", resident=0, cap_gib=12, compared=True
            ),
        ),
        {"under 24 GiB": {"speed_percent": 90}, "under 12 GiB": {"speed_percent": 80}},
    ),
    "stream_65b": (
        "65b",
        Tiers(),
        (
            Trial(label=RESIDENT, lengths=(4096,), keep="on"),
            Trial(label="under 24 GiB", lengths=(4096,), keep="on", resident=28, cap_gib=24, compared=True),
            Trial(label="r = 64, under 48 GiB", lengths=(512,), r=64, keep="on", resident=64, cap_gib=48),
        ),
        {"under 24 GiB": {"speed_percent": 90}, "r = 64, under 48 GiB": {"allocated_gib": 37.2}},
    ),
    "longest_8b": (
        "8b",
        Tiers(),
        (
            *(
                Trial(
                    label=f"under {cap} GiB",
                    lengths=lengths,
                    keep="offload_attention",
                    resident=0,
                    cap_gib=cap,
                    warm_up=0,
                    steps=1,
                )
                for cap, lengths in (
                    (8, (16384, 3456)),
                    (12, (32768, 25152)),
                    (16, (49152, 46848)),
                    (24, (90304,)),
                )
            ),
            Trial(label=LONG, lengths=(65536,), keep="offload_attention", cap_gib=24, paged="auto"),
        ),
        {
            f"under {cap} GiB": {"context_tokens": least}
            for cap, least in ((8, 3418), (12, 25126), (16, 46833), (24, 90247))
        },
    ),
    "stream_33b": (
        "33b",
        Tiers(),
        (Trial(label="r = 64, under 24 GiB", lengths=(512,), r=64, keep="on", resident=48, cap_gib=24),),
        {"r = 64, under 24 GiB": {"allocated_gib": 20.0}},
    ),
    "paging_8b": (
        "8b",
        Tiers(),
        tuple(
            Trial(label=label, lengths=(2048,), samples=4, r=64, paged=paged, steps=4, compared=True)
            for label, paged in (("AdamW unpaged", False), ("where there is room", "auto"), ("always paged", True))
        ),
        {"where there is room": {"speed_percent": 99}},
    ),
    "stream_disk_8b": (
        "8b",
        Tiers(disk=32),
        (
            Trial(label=RESIDENT, lengths=(16384,), keep="on"),
            Trial(label="every block on disk", lengths=(16384,), keep="on", resident=0, compared=True),
        ),
        {},
    ),
    "stream_405b": (
        "405b",
        Tiers(device=62, disk=12),
        (
            Trial(
                label="62 blocks on the GPU, 52 on the host, 12 on disk",
                lengths=(2048,),
                keep="on",
                resident=0,
                steps=1,
            ),
        ),
        {},
    ),
}
"""By case: model, where its blocks are, rows and targets. The published longest contexts of others, times 1.15, are
the least ones of 8B."""
TITLES = {
    "stream_70b": "Llama-3-70B, r = 16, 4096 tokens",
    "stream_65b": "Llama-65B, r = 16, 4096 tokens; r = 64, 512 tokens",
    "longest_8b": "8B, r = 16, the longest sample that trains",
    "stream_33b": "Llama-33B, 512 tokens",
    "paging_8b": "8B, r = 64, 4×2048",
    "stream_disk_8b": "8B, r = 16, 16,384 tokens; the file is in the page cache",
    "stream_405b": "Llama-3.1-405B, r = 16, 2048 tokens",
}
TINY = (
    Trial(label=RESIDENT, lengths=(64,), r=4, keep="offload"),
    Trial(label="capped", lengths=(64,), r=4, keep="on", resident=1, cap_gib=8, compared=True),
    Trial(label="another rank", lengths=(64,), r=8, keep="off", resident=0, paged="auto"),
)


def _case(name: str) -> Case:
    model, tiers, trials, target = LARGE[name]
    return Case(
        name=name,
        kind=KIND,
        title=TITLES[name],
        contenders={QUATRAIN: Play(partial(measure, model, tiers, trials))},
        device="cuda",
        options={"model": model, "tiers": asdict(tiers), "rows": [asdict(trial) for trial in trials]},
        target=target,
        limit_s=300,
    )


CASES = (
    *map(_case, LARGE),
    Case(
        name="selftest_streaming",
        kind=KIND,
        title="a tiny model on a CPU, to test the benchmarks themselves",
        contenders={QUATRAIN: Play(partial(measure, "tiny", Tiers(disk=1), TINY))},
        device="cpu",
        options={"model": "tiny", "rows": [asdict(trial) for trial in TINY]},
        environment=ONE_CORE,
        listed=False,
    ),
)
