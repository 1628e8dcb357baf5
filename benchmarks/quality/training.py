"""One training, from a fresh base to its loss on rows that it hasn't seen, by Quatrain's own training step.

Every method gets the same rows at the same step, the same schedule (cosine after a twentieth of warm-up), the same
clipping, and the same optimizer with state in 8 bits; full fine-tuning has 32, as its bar is to be the highest.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from benchmarks.quality.cell import OutOfTime, Where
from benchmarks.quality.models import Tuned, Tuning, tuned
from benchmarks.quality.tasks import Split, Task, evaluation_batches, questions_of, samples_of, training_batches
from benchmarks.timing import release, step_ms
from quatrain.data import MicroBatch
from quatrain.device import memory_in_use, reset_peak
from quatrain.evaluation import evaluate_loss, generate_answers
from quatrain.evaluation.metrics import number_match
from quatrain.optim import AdamW, lr_multiplier
from quatrain.training.step import train_step

Optimizer = Literal["32-bit", "8-bit", "8-bit paged"]
MAX_GRAD_NORM = 1.0
NEW_TOKENS = 200
"""Longest answer in tokens."""
_TIMED = 10
"""Steps at the end whose time counts: the first ones compile and record."""
_OPTIMIZERS: dict[Optimizer, dict[str, Any]] = {
    "32-bit": {"state_bits": 32, "paged": False},
    "8-bit": {"state_bits": 8, "paged": False},
    "8-bit paged": {"state_bits": 8, "paged": True},
}


@dataclass(frozen=True, kw_only=True)
class Training(Tuning):
    """A method with all else that decides its outcome."""

    task: Task
    learning_rate: float
    steps: int
    rows: int
    seed: int
    optimizer: Optimizer = "8-bit"
    split: Split = "test"
    held_out: int = 512
    """Samples of `split` that the loss is taken on; 0: none, only time and memory are asked for."""
    answers: int = 0
    """Questions that are answered afterwards and scored; none with prompt tuning, whose vectors aren't in the model."""
    curve: bool = False
    """Keep the loss of every step."""


def measure(settings: dict[str, Any], where: Where) -> dict[str, Any]:
    """Train as `settings`, those of a :class:`Training`, say. → what was measured.

    Raises:
        OutOfTime: the deadline came first.
    """
    run = Training(**settings)
    subject = tuned(run, where.model, where.device, run.seed)
    path = where.data[run.task]
    learned = training_batches(
        samples_of(run.task, "train", path, where.model),
        steps=run.steps,
        rows=run.rows,
        seed=run.seed,
        packed=subject.objective.packs,
    )
    reset_peak(where.device)
    found: dict[str, Any] = {
        "trained": sum(p.numel() for p in subject.trained),
        "base_parameters": subject.base_parameters,
    }
    found |= _train(run, subject, learned, where)
    found["peak_gib"] = round(memory_in_use(where.device).peak / 2**30, 4)
    if run.held_out:
        samples = samples_of(run.task, run.split, path, where.model)
        batches = evaluation_batches(samples, most=run.held_out, rows=run.rows, packed=subject.objective.packs)
        found["loss"] = evaluate_loss(subject.objective, batches).loss
    if run.answers:
        found["number_match"] = _accuracy(subject, path, run.answers)
    del subject
    release(where.device)
    return found


def settings_of(run: Training) -> dict[str, Any]:
    """As plain values: a cell's settings."""
    return asdict(run)


def _train(run: Training, subject: Tuned, batches: Sequence[MicroBatch], where: Where) -> dict[str, Any]:
    optimizer = AdamW(subject.trained, lr=run.learning_rate, **_OPTIMIZERS[run.optimizer])
    subject.model.train()
    losses, times = [], []
    for number, batch in enumerate(batches):
        if time.time() > where.deadline:
            raise OutOfTime
        factor = lr_multiplier("cosine", number, warmup_steps=max(1, run.steps // 20), total_steps=run.steps)
        optimizer.param_groups[0]["lr"] = run.learning_rate * factor
        times.append(step_ms(_step(subject, optimizer, batch, losses), where.device))
    subject.model.eval()
    last = losses[-max(1, math.ceil(len(losses) / 10)) :]
    found = {
        "training_loss": statistics.fmean(last),
        "step_ms": round(statistics.median(times[-_TIMED:]), 3),
        "state_bytes": optimizer.state_bytes,
        "diverged": not all(map(math.isfinite, losses)),
    }
    return found | ({"losses": [float(f"{loss:.6g}") for loss in losses]} if run.curve else {})


def _step(subject: Tuned, optimizer: Any, batch: MicroBatch, losses: list[float]) -> Callable[[], None]:
    def take() -> None:
        result = train_step(subject.objective, subject.trained, optimizer, [batch], max_grad_norm=MAX_GRAD_NORM)
        losses.append(result.loss)

    return take


@torch.no_grad()
def _accuracy(subject: Tuned, path: str, count: int) -> float:
    """Share of questions whose last number is the reference's."""
    questions = questions_of(path, count, subject.tokenizer)
    prompts = [question.prompt_ids for question in questions]
    said = generate_answers(
        subject.model, subject.tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=len(prompts)
    )
    return statistics.fmean(number_match(a, q.reference) for a, q in zip(said, questions, strict=True))
