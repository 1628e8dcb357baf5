"""Plans against the allocator and the clock: what was predicted for a step, and what it then took.

Models of random 4-bit weights, from 135M to 70B parameters, on the engine as it is: each row is a model, a micro-batch
and what its blocks keep. The peak is that of the first steps, before blocks are recorded as CUDA graphs, whose memory
the allocator's count leaves out afterwards; the time is that of the last.

    python -m benchmarks.measurements.planning    puts today's plans beside what the result file has measured
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.case import ONE_CORE, QUATRAIN, Case, Kind, Play, Row, Rows, Setting
from benchmarks.checkpoints import config_of
from benchmarks.results import RESULTS
from benchmarks.shapes import SHAPES
from benchmarks.timing import release, step_ms
from benchmarks.work import LEARNING_RATE, MAX_GRAD_NORM

KIND = Kind(
    title="Plans",
    note="A training step as planned from the config alone, and as it was: the most that tensors occupied, and its "
    "time. Random weights and tokens, 8-bit AdamW, bfloat16; errors are of the plan, in percent of what was measured.",
    shows=("allocated_gib", "ms", "peak_error_percent", "time_error_percent"),
)
LARGEST = "largest error"
_BEFORE_RECORDING = 2
"""Steps that run as they are, whatever is recorded later."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One configuration."""

    model: str
    samples: int
    length: int
    keep: str
    """What all blocks keep, or "a/b": the first half of the blocks a, the others b."""
    r: int = 16
    dropout: float = 0.0
    streamed: int = 0
    paged: bool = False
    backend: str = "cudnn"
    """What attends; "flash2" stands for cards that cuDNN's kernel doesn't run on."""
    steps: int = 2
    """Timed ones."""

    @property
    def label(self) -> str:
        extra = f"{', r = 64' if self.r == 64 else ''}{', dropout' if self.dropout else ''}"
        extra += f"{', half of the blocks streamed' if self.streamed else ''}{', paged AdamW' if self.paged else ''}"
        extra += ", FlashAttention-2" if self.backend == "flash2" else ""
        return f"{self.model}, {self.samples}×{self.length}, {self.keep}{extra}"

    def names(self, blocks: int) -> tuple[str, ...]:
        """The policy of each block."""
        first, _, second = self.keep.partition("/")
        return (first,) * (blocks // 2) + (second or first,) * (blocks - blocks // 2)


TRIALS = (
    Trial(model="smollm2", samples=4, length=2048, keep="off", steps=6),
    Trial(model="1b", samples=4, length=2048, keep="off", steps=6),
    Trial(model="1b", samples=1, length=1024, keep="on", steps=6),
    Trial(model="8b", samples=4, length=2048, keep="off"),
    Trial(model="8b", samples=4, length=2048, keep="gate_up_8bit"),
    Trial(model="8b", samples=4, length=2048, keep="gate_up"),
    Trial(model="8b", samples=4, length=2048, keep="on"),
    Trial(model="8b", samples=4, length=2048, keep="on/off"),
    Trial(model="8b", samples=2, length=2048, keep="offload"),
    Trial(model="8b", samples=1, length=8192, keep="offload_attention"),
    Trial(model="8b", samples=4, length=2048, keep="on", backend="flash2"),
    Trial(model="8b", samples=16, length=512, keep="off", r=64, dropout=0.1, paged=True),
    Trial(model="8b", samples=1, length=2048, keep="gate_up", streamed=16),
    Trial(model="33b", samples=1, length=512, keep="off", r=64, steps=6),
    Trial(model="70b", samples=1, length=2048, keep="gate_up"),
    Trial(model="70b", samples=2, length=2048, keep="on"),
)
TINY = (
    Trial(model="tiny", samples=2, length=64, keep="off"),
    Trial(model="tiny", samples=2, length=64, keep="on/off", paged=True),
)


def measure(trials: Sequence[Trial], setting: Setting) -> Rows:
    """A row for each trial. Those of one model follow one another and share it."""
    rows: Rows = {}
    for (name, streamed), group in groupby(trials, key=lambda trial: (trial.model, trial.streamed)):
        model = _model(name, streamed, setting.device)
        for trial in group:
            rows[trial.label] = measure_one(trial, model, setting)
            print(trial.label, rows[trial.label].values, flush=True)
        del model
        release(setting.device)
    rows[LARGEST] = Row(values=_worst(rows))
    return rows


def measure_one(trial: Trial, model: Any, setting: Setting) -> Row:
    """Plan and measure one configuration on a model without an adapter, and leave it so."""
    from quatrain.adapters import detach_lora

    row = Row(tokens=trial.samples * trial.length)
    with _attending_with(trial.backend):
        step = _step_of(trial, model, setting.device)
        release(setting.device)
        _clear(setting.device)
        for _ in range(_BEFORE_RECORDING):
            step()
        measured = _peak(setting.device)
        for _ in range(3 if trial.steps > 2 else 0):
            step()
        row.samples_ms = [step_ms(step, setting.device) for _ in range(trial.steps)]
    del step
    detach_lora(model)
    row.allocated_gib = measured / 2**30
    if setting.device.type == "cuda":
        row.reserved_gib = torch.cuda.max_memory_reserved(setting.device) / 2**30
    row.values = _compared(predicted(trial, setting.device), measured, median(row.samples_ms)) | _context(
        setting.device
    )
    return row


def predicted(trial: Trial, device: torch.device) -> tuple[int, float]:
    """(peak in bytes, milliseconds of a step) as the planner has them."""
    from quatrain.blocks import POLICIES
    from quatrain.memory.architectures import Treatment, shape_of
    from quatrain.memory.candidates import Kept, Workshop
    from quatrain.memory.card import card_named, processor
    from quatrain.memory.request import Request
    from quatrain.memory.standing import Standing

    on_gpu = device.type == "cuda"
    card = card_named("h200") if on_gpu else processor(1 << 40, cores=1, flops_of_a_core=1e11)
    card = replace(card, backend=trial.backend if on_gpu else "triton")
    treated = Treatment(four_bits=lambda _: True, rank=lambda _: trial.r, dropout=trial.dropout > 0)
    request = Request(
        model=shape_of(config_of(SHAPES[trial.model]).to_dict(), treated),
        card=card,
        budget=card.memory,
        host=1 << 40,
        max_length=trial.length,
        rows=trial.samples,
        rows_at_once=(trial.samples,),
        policies=POLICIES,
    )
    first, second = (trial.names(2)[place] for place in (0, 1))
    kept = Kept(first, second, SHAPES[trial.model].blocks // 2)
    workshop = Workshop(request, Standing(request), trial.samples)
    found = workshop.candidate(kept, trial.streamed, paged=trial.paged and card.is_gpu)
    return found.peaks["training"], 1e3 * found.seconds


def plan_anew(path: Path) -> None:
    """Put the plans of the planner as it is beside what a result file has measured."""
    result = json.loads(path.read_text(encoding="utf-8"))
    entry = result["contenders"][QUATRAIN.name]
    rows = {label: row for label, row in entry["rows"].items() if label != LARGEST}
    for trial in (Trial(**trial) for trial in result["options"]["trials"]):
        if row := rows.get(trial.label):
            plan = predicted(trial, torch.device("cuda"))
            row |= _compared(plan, row["allocated_gib"] * 2**30, row["ms"]["median"])
    entry["rows"] = rows | {LARGEST: _worst({label: Row(values=row) for label, row in rows.items()})}
    entry["reason"] = "peaks and times as measured; planned anew since"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _model(name: str, streamed: int, device: torch.device) -> Any:
    from benchmarks.random_models import random_model
    from quatrain.memory.choose import spread
    from quatrain.offload import Streaming

    streaming = Streaming(host=spread(streamed, SHAPES[name].blocks)) if streamed else None
    return random_model(SHAPES[name], device, streaming)


def _step_of(trial: Trial, model: Any, device: torch.device) -> Any:
    """A training step on fresh random tokens."""
    from quatrain import LoraConfig, attach_lora
    from quatrain.adapters import adapter_parameters
    from quatrain.blocks import POLICIES
    from quatrain.data import Sample
    from quatrain.data.batch import packed_batch
    from quatrain.models.engine import Engine
    from quatrain.optim import AdamW
    from quatrain.training.step import train_step

    attach_lora(model, LoraConfig(r=trial.r, lora_alpha=trial.r, lora_dropout=trial.dropout))
    engine: Any = Engine(model.train())
    names = trial.names(len(engine.stack.blocks))
    engine.set_policy(lambda index: POLICIES[names[index]])
    parameters: Any = list(adapter_parameters(model).values())
    optimizer = AdamW(parameters, lr=LEARNING_RATE, paged=trial.paged)
    learned = torch.ones(trial.length, dtype=torch.bool).numpy()

    def step() -> None:
        ids = torch.randint(3, SHAPES[trial.model].vocabulary, (trial.samples, trial.length), dtype=torch.int32)
        rows = [Sample(row.numpy(), learned) for row in ids]
        batch = packed_batch(rows, pad_token_id=0, tokens=trial.samples * trial.length, longest=trial.length)
        train_step(engine, parameters, optimizer, [batch], max_grad_norm=MAX_GRAD_NORM)

    return step


@contextmanager
def _attending_with(backend: str) -> Iterator[None]:
    """Let cuDNN's kernel stand back, where another is asked for."""
    from quatrain.ops.block_attention import cudnn

    can_run = cudnn.can_run
    if backend != "cudnn":
        cudnn.can_run = lambda *_: False
    try:
        yield
    finally:
        cudnn.can_run = can_run


def _compared(plan: tuple[int, float], peak: float, milliseconds: float) -> dict[str, Any]:
    bytes_planned, ms_planned = plan
    return {
        "predicted_gib": round(bytes_planned / 2**30, 3),
        "predicted_ms": round(ms_planned, 2),
        "peak_error_percent": round(100 * (bytes_planned / peak - 1), 2),
        "time_error_percent": round(100 * (ms_planned / milliseconds - 1), 1),
    }


def _worst(rows: Mapping[str, Row]) -> dict[str, float]:
    """The largest errors without their signs, and the largest peak above a plan."""
    return {
        "peak_error_percent": max(abs(row.values["peak_error_percent"]) for row in rows.values()),
        "peak_above_plan_percent": max(-row.values["peak_error_percent"] for row in rows.values()),
        "time_error_percent": max(abs(row.values["time_error_percent"]) for row in rows.values()),
    }


def _clear(device: torch.device) -> None:
    """Forget the trials before: cuBLAS keeps scratch for every stream that a recording has used."""
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    """The most that tensors occupied; on a CPU, where nobody counts, what is resident."""
    from quatrain.device import memory_in_use

    return memory_in_use(device).peak


def _context(device: torch.device) -> dict[str, float]:
    """What the process takes of the device beside PyTorch's allocator, if it is alone on it."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {"context_gib": round((total - free - torch.cuda.memory_reserved(device)) / 2**30, 3)}


def _case(name: str, trials: Sequence[Trial], device: str, **more: Any) -> Case:
    return Case(
        name=name,
        kind=KIND,
        title="",
        contenders={QUATRAIN: Play(lambda setting: measure(trials, setting))},
        device=device,  # pyright: ignore[reportArgumentType]
        options={"trials": [asdict(trial) for trial in trials]},
        **more,
    )


CASES = (
    _case(
        "plan_accuracy",
        TRIALS,
        "cuda",
        target={LARGEST: {"peak_error_percent": 3, "time_error_percent": 15}},
        limit_s=180,
    ),
    _case("selftest_planning", TINY, "cpu", environment=ONE_CORE, listed=False),
)

if __name__ == "__main__":
    plan_anew(RESULTS / "plan_accuracy.json")
