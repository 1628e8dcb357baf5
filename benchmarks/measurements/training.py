"""Training steps: a whole optimizer step of QLoRA on random tokens, in time and in memory."""

from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor

from benchmarks.case import (
    HF,
    HF_CHECKPOINTED,
    LIGER,
    ONE_CORE,
    QUATRAIN,
    TWO_CORES,
    UNSLOTH,
    Case,
    Contender,
    Figures,
    Kind,
    Play,
    Row,
    Rows,
    Setting,
)
from benchmarks.floor import rates_for, step_floor_ms
from benchmarks.gate import GATE_MODELS, training_gate
from benchmarks.libraries import hf, ours, unsloth
from benchmarks.shapes import SHAPES
from benchmarks.timing import memory, step_ms
from benchmarks.work import OpenTraining, Training, Work

KIND = Kind(
    title="Training steps",
    note="Forward, backward, clipping and update on random tokens; adapters on all linears of the blocks, 8-bit AdamW, "
    "bfloat16. Median step; the most memory that tensors occupied; and the most that PyTorch held for them, in which "
    "alone the memory of recorded CUDA graphs counts.",
    shows=("ms", "allocated_gib", "reserved_gib"),
)
STEP = "step"

OPEN: dict[Contender, OpenTraining] = {
    HF: hf.open_training,
    HF_CHECKPOINTED: hf.open_checkpointed,
    LIGER: hf.open_with_liger,
    UNSLOTH: unsloth.open_training,
    QUATRAIN: ours.QuatrainTraining,
}
COMPILE = (UNSLOTH,)
"""Compilers that saw the gate's small shapes first would make more general, slower code for the large ones."""


def play(work: Work, contender: Contender) -> Play:
    opening = OPEN[contender]
    gate = partial(training_gate, opening, work)
    return Play(partial(measure, opening, work), gate, gate_last=contender in COMPILE)


def measure(open_training: OpenTraining, work: Work, setting: Setting) -> Rows:
    """Times of equal steps after a warm-up, on fresh tokens each."""
    if work.cap_gib is not None and setting.device.type == "cuda":
        total = torch.cuda.get_device_properties(setting.device).total_memory
        torch.cuda.set_per_process_memory_fraction(work.cap_gib * 2**30 / total)
    training = open_training(setting.models / work.model, work, setting.device)
    for _ in range(work.warm_up):
        training.step(training.prepare(random_tokens(work)))
    row = Row(tokens=work.tokens)
    with memory(row, setting.device):
        for _ in range(setting.repetitions(work.steps)):
            row.samples_ms.append(timed_step(training, work, setting.device))
    if training.notes:
        row.values["notes"] = training.notes
    return {STEP: row}


def timed_step(training: Training, work: Work, device: torch.device) -> float:
    """Milliseconds of one step on new tokens."""
    batches = training.prepare(random_tokens(work))
    return step_ms(lambda: training.step(batches), device)


def random_tokens(work: Work) -> Tensor:
    vocabulary = SHAPES[work.model].vocabulary
    return torch.randint(3, vocabulary, (work.samples, work.length))


def floor(work: Work, ceilings: Figures) -> Figures:
    rates = rates_for(ceilings, work.model, samples=work.samples, length=work.length)
    milliseconds = step_floor_ms(
        SHAPES[work.model], rates, samples=work.samples, length=work.length, r=work.r, recompute=work.recompute
    )
    return {STEP: {"ms": milliseconds}}


def _case(
    name: str, title: str, work: Work, contenders: tuple[Contender, ...], target: dict[str, float], limit_s: int = 300
) -> Case:
    """A case on one GPU, with the floor of its work."""
    return Case(
        name=name,
        kind=KIND,
        title=title,
        contenders={contender: play(work, contender) for contender in contenders},
        device="cuda",
        options=asdict(work),
        models=(work.model, GATE_MODELS[work.model]),
        target={STEP: target} if target else {},
        floor=partial(floor, work),
        limit_s=limit_s,
    )


ON_A_CPU = Work(model="smollm2", samples=1, length=512, warm_up=2, steps=6)
FOR_TESTS = Work(model="tiny", samples=2, length=64, r=4, warm_up=1, steps=3)
PAPER = Work(model="8b", samples=16, length=512, r=64, dropout=0.1, peer_samples=1, warm_up=4, steps=4)
PAPER_AT_ONCE = Work(model="8b", samples=16, length=512, r=64, dropout=0.1)

LONG = Work(
    model="8b",
    samples=1,
    length=65536,
    recompute="products",
    keep="offload_attention",
    cap_gib=24,
    warm_up=1,
    steps=3,
)

CASES = (
    _case(
        "train_8b_4x2048",
        "8B, 4×2048, nothing recomputed",
        Work(model="8b", samples=4, length=2048),
        (HF, LIGER, UNSLOTH, QUATRAIN),
        {"ms": 450, "reserved_gib": 33},
    ),
    _case(
        "train_8b_4x2048_small",
        "8B, 4×2048, at a peak of at most 7.8 GiB (floor: everything recomputed)",
        Work(model="8b", samples=4, length=2048, recompute="everything", keep="offload"),
        (HF, UNSLOTH, QUATRAIN),
        # Unsloth's 7.8 GiB, which set this bound, are what tensors occupied; it held 8.1.
        {"ms": 650, "allocated_gib": 7.8},
    ),
    _case(
        "train_8b_1x2048",
        "8B, 1×2048, at a peak of at most 14 GiB",
        Work(model="8b", samples=1, length=2048),
        (HF, UNSLOTH, QUATRAIN),
        {"ms": 140, "reserved_gib": 14},
    ),
    _case(
        "train_8b_1x2048_checkpointed",
        "8B, 1×2048, peers checkpointed (floor: everything recomputed)",
        Work(model="8b", samples=1, length=2048, recompute="everything"),
        (UNSLOTH,),
        {},
    ),
    _case(
        "train_8b_paper",
        "8B, r = 64, dropout 0.1, 16 rows of 512 a step; peers in 16 micro-batches, as in the paper",
        PAPER,
        (HF, UNSLOTH, QUATRAIN),
        {"ms": 550},
    ),
    _case(
        "train_8b_paper_at_once",
        "the same with a peer's 16 rows in one micro-batch",
        PAPER_AT_ONCE,
        (UNSLOTH,),
        {},
    ),
    _case(
        "train_1b_4x2048",
        "1B, 4×2048, nothing recomputed",
        Work(model="1b", samples=4, length=2048, steps=20),
        (HF, LIGER, UNSLOTH, QUATRAIN),
        {"ms": 98},
    ),
    _case(
        "train_1b_1x1024",
        "1B, 1×1024, nothing recomputed",
        Work(model="1b", samples=1, length=1024, steps=30),
        (HF, UNSLOTH, QUATRAIN),
        {"ms": 18},
    ),
    _case(
        "train_8b_1x65536",
        "8B, 1×65,536 under a cap of 24 GiB (floor: all but attention recomputed)",
        Work(
            model="8b",
            samples=1,
            length=65536,
            recompute="products",
            keep="offload_attention",
            cap_gib=24,
            warm_up=1,
            steps=3,
        ),
        (HF, UNSLOTH, QUATRAIN),
        {"ms": 13_200, "reserved_gib": 24},
        limit_s=240,
    ),
    Case(
        name="cpu_step",
        kind=KIND,
        title="SmolLM2-135M, 1×512, two CPU cores (memory: the process)",
        contenders={who: play(ON_A_CPU, who) for who in (HF, HF_CHECKPOINTED, QUATRAIN)},
        device="cpu",
        options=asdict(ON_A_CPU),
        models=("smollm2", "gate_1b"),
        rounds=2,
        environment=TWO_CORES,
    ),
    Case(
        name="selftest_training",
        kind=KIND,
        title="a tiny model on a CPU, to test the benchmarks themselves",
        contenders={who: play(FOR_TESTS, who) for who in (HF, UNSLOTH, QUATRAIN)},
        device="cpu",
        options=asdict(FOR_TESTS),
        models=("tiny",),
        environment=ONE_CORE,
        listed=False,
    ),
)
